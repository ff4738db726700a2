// SPDX-License-Identifier: Apache-2.0
//! Control calls against the real agent, by gRPC.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use inn_wire::announce::agent_message;
use proto::maitred_client::MaitredClient;
use proto::{
    EmptyMessage, IPv4Config, LaunchProcessRequest, Mount9PRequest, MountRequest,
    NetworkConfigRequest, PortProtocol, ProcessStatus, ResizeFilesystemRequest, ResolvConfig,
    SetResolvConfigRequest, SetTimeRequest, UnmountRequest,
};
use support::{Agent, until};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

#[allow(missing_docs, clippy::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/client/vm_tools.rs"));
}

async fn client(agent: &Agent) -> MaitredClient<Channel> {
    let path: PathBuf = agent.socket(8888);
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://agent").timeout(support::LIMIT);
    MaitredClient::new(endpoint.connect_with_connector(connect).await.unwrap())
}

/// Runs a test's calls on a runtime of its own.
fn calls(body: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body);
}

fn launch(argv: &[&str]) -> LaunchProcessRequest {
    LaunchProcessRequest {
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        wait_for_exit: true,
        ..Default::default()
    }
}

#[test]
fn kernel_version() {
    let agent = Agent::start();
    calls(async {
        let response = client(&agent)
            .await
            .get_kernel_version(EmptyMessage {})
            .await
            .unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(response.into_inner().kernel_version, release.trim());
    });
}

#[test]
fn launch_and_wait() {
    let agent = Agent::start();
    calls(async {
        let mut client = client(&agent).await;
        let mut run = async |request| client.launch_process(request).await.unwrap().into_inner();
        let response = run(launch(&["sh", "-c", "echo out; echo err >&2; exit 3"])).await;
        assert_eq!(
            (response.status(), response.code),
            (ProcessStatus::Exited, 3)
        );
        assert_eq!(response.output, b"out\nerr\n");
        let response = run(launch(&["sh", "-c", "kill -9 $$"])).await;
        assert_eq!(
            (response.status(), response.code),
            (ProcessStatus::Signaled, 9)
        );
        let response = run(launch(&["head", "-c", "1000000", "/dev/zero"])).await;
        assert_eq!(
            (response.status(), response.output.len()),
            (ProcessStatus::Exited, 64 << 10)
        );
        let response = run(launch(&["no-such-command"])).await;
        assert_eq!(
            (response.status(), response.code),
            (ProcessStatus::Failed, libc::ENOENT)
        );
        let response = run(launch(&["/tmp"])).await;
        assert_eq!(
            (response.status(), response.code),
            (ProcessStatus::Failed, libc::EACCES)
        );
        let response = run(launch(&[])).await;
        assert_eq!(
            (response.status(), response.code),
            (ProcessStatus::Failed, libc::EINVAL)
        );
        let mut request = launch(&["sh", "-c", "echo $A"]);
        request.env.insert("A".into(), "b".into());
        assert_eq!(run(request).await.output, b"b\n");
    });
    agent.wait_childless();
}

#[test]
fn launch_without_waiting() {
    let agent = Agent::start();
    let flag = agent.dir.join("flag");
    calls(async {
        let request = LaunchProcessRequest {
            wait_for_exit: false,
            ..launch(&["touch", flag.to_str().unwrap()])
        };
        let response = client(&agent)
            .await
            .launch_process(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(response.status(), ProcessStatus::Launched);
    });
    until("the process has run", || flag.exists());
    agent.wait_childless();
}

#[test]
fn respawn_has_a_limit() {
    let (agent, mut announcement) = Agent::start_with(&[]);
    let log = agent.dir.join("log");
    calls(async {
        let script = format!("echo x >> {}; exit 7", log.display());
        let mut request = LaunchProcessRequest {
            respawn: true,
            ..launch(&["sh", "-c", &script])
        };
        let mut client = client(&agent).await;
        let refused = client.launch_process(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        request.wait_for_exit = false;
        client.launch_process(request).await.unwrap();
    });
    match announcement.receive() {
        agent_message::Msg::Failure(failure) => {
            assert_eq!(failure.what, "respawn");
            assert!(failure.detail.contains("10 times"), "{}", failure.detail);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 10);
}

#[test]
fn mount_errors_are_errnos() {
    let agent = Agent::start();
    let target = agent.dir.join("deep/target");
    calls(async {
        let request = MountRequest {
            source: "none".into(),
            target: target.to_str().unwrap().to_owned(),
            fstype: "no-such-filesystem".into(),
            create_target: true,
            permissions: 0o700,
            ..Default::default()
        };
        let response = client(&agent)
            .await
            .mount(request)
            .await
            .unwrap()
            .into_inner();
        // ENODEV as root; EPERM as anybody else.
        assert!(
            [libc::ENODEV, libc::EPERM].contains(&response.error),
            "{}",
            response.error
        );
    });
    assert_eq!(
        target.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn mounting_9p_and_unmounting_answer_with_errnos() {
    let agent = Agent::start();
    let target = agent.dir.join("deep/target");
    let request = |port, target: &str| Mount9PRequest {
        port,
        target: target.to_owned(),
        ..Default::default()
    };
    let server = std::os::unix::net::UnixListener::bind(agent.socket(16384)).unwrap();
    calls(async {
        let mut client = client(&agent).await;
        let mut mount = async |request| client.mount9_p(request).await.unwrap().into_inner().error;
        let target = target.to_str().unwrap();
        assert_eq!(mount(request(16385, target)).await, libc::ENOENT);
        assert_eq!(mount(request(16384, "relative")).await, libc::EINVAL);
        // ENODEV as root of a kernel without 9p; EPERM as anybody else.
        let error = mount(request(16384, target)).await;
        assert!([libc::ENODEV, libc::EPERM].contains(&error), "{error}");
        let mut unmount = async |target: &str| {
            let target = target.to_owned();
            let request = UnmountRequest { target, lazy: true };
            client.unmount(request).await.unwrap().into_inner().error
        };
        assert_eq!(unmount("/no/such").await, libc::ENOENT);
        assert_eq!(unmount("no/such").await, libc::EINVAL);
        let error = unmount(agent.dir.to_str().unwrap()).await;
        assert!([libc::EINVAL, libc::EPERM].contains(&error), "{error}");
        let mut resize = async |target: &str| {
            let request = ResizeFilesystemRequest {
                target: target.to_owned(),
                size_bytes: 0,
            };
            let answer = client.resize_filesystem(request).await.unwrap();
            answer.into_inner().error
        };
        assert_eq!(resize("/proc").await, libc::EOPNOTSUPP);
        assert_eq!(resize("/proc/version").await, libc::ENOTDIR);
        assert_eq!(resize("/no/such").await, libc::ENOENT);
    });
    drop(server);
    // What was made for a mount that failed is gone.
    assert!(agent.dir.is_dir() && !agent.dir.join("deep").exists());
}

#[test]
fn bad_arguments_are_refused() {
    let agent = Agent::start();
    calls(async {
        let mut client = client(&agent).await;
        let refused = client
            .set_time(SetTimeRequest {
                seconds: 0,
                nanos: 5,
            })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let number = u32::from_le_bytes;
        let ipv4_config = Some(IPv4Config {
            address: number([10, 0, 0, 1]),
            netmask: number([255, 0, 255, 0]),
            gateway: 0,
        });
        for ipv4_config in [None, ipv4_config] {
            let request = NetworkConfigRequest {
                ipv4_config,
                resolv_config: None,
            };
            let refused = client.configure_network(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        let resolv_config = Some(ResolvConfig {
            nameservers: vec!["not an address".into()],
            search_domains: Vec::new(),
        });
        let request = SetResolvConfigRequest { resolv_config };
        let refused = client.set_resolv_config(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

#[test]
fn shutdown_of_a_service_asks_init() {
    let dir = std::env::temp_dir().join(format!("inn-poweroff-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let flag = dir.join("flag");
    let program = dir.join("poweroff");
    // The agent's own PATH has only this one: no other poweroff can start.
    std::fs::write(&program, format!("#!/bin/sh\n: > {}\n", flag.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (agent, _announcement) = Agent::start_with(&[("PATH", dir.to_str().unwrap())]);
    calls(async {
        client(&agent)
            .await
            .shutdown(EmptyMessage {})
            .await
            .unwrap();
    });
    until("poweroff has run", || flag.exists());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn noise_on_the_control_port_is_survived() {
    use std::io::Write;
    let agent = Agent::start();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100]] {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket(8888)).unwrap();
        stream.write_all(bytes).unwrap();
    }
    calls(async {
        client(&agent)
            .await
            .get_kernel_version(EmptyMessage {})
            .await
            .unwrap();
    });
}

#[test]
fn what_is_listened_on() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let agent = Agent::start();
    calls(async {
        let mut client = client(&agent).await;
        let answer = client.listening_ports(EmptyMessage {}).await.unwrap();
        let ports = answer.into_inner().ports;
        let has = |protocol: PortProtocol, port: u16, loopback| {
            ports.iter().any(|found| {
                found.protocol() == protocol
                    && found.port == u32::from(port)
                    && found.loopback == loopback
            })
        };
        let number = tcp.local_addr().unwrap().port();
        assert!(has(PortProtocol::Tcp, number, true), "{ports:?}");
        let number = udp.local_addr().unwrap().port();
        assert!(has(PortProtocol::Udp, number, false), "{ports:?}");
    });
}
