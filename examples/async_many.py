# SPDX-License-Identifier: Apache-2.0
"""Run many commands in a guest at once, and cancel one that takes too long."""

import asyncio

import innkeeper


async def main() -> None:
    """Twenty commands side by side; one that would take an hour."""
    async with innkeeper.AsyncMachine.run("tiny") as vm:
        jobs = (vm.exec(["expr", str(n), "*", str(n)], check=True, text=True) for n in range(1, 21))
        squares = [int(done.stdout) for done in await asyncio.gather(*jobs)]
        print("sum of squares:", sum(squares))
        try:
            await asyncio.wait_for(vm.exec(["sleep", "3600"]), timeout=0.5)
        except TimeoutError:
            print("gave up; the guest's sleep ended with it")


asyncio.run(main())
