// SPDX-License-Identifier: Apache-2.0
//! The board's only thread: waits, dispatches, gives everybody a turn.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use crate::board::Board;
use crate::listeners::Clients;
use crate::table::Rules;
use crate::token::{Event, Token};

/// What other threads ask of the board's thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve the keeper of the guest with this id on a listener.
    Link(OwnedFd, u16),
    /// Replace the rules, and say when they are in force.
    SetRules(Rules, SyncSender<()>),
    /// End.
    Close,
}

/// The way in for other threads.
pub(crate) type Mailbox = inn_reactor::Mailbox<Command>;

/// Why the loop ends.
struct Ended;

/// Runs until `close()`. What is connected then is closed with the board.
pub(crate) fn run(mut board: Board, mailbox: &Arc<Mailbox>) {
    let mut events = Vec::new();
    loop {
        let deadline = if board.queue.is_empty() {
            board.timers.next()
        } else {
            Some(Instant::now())
        };
        if board.poller.wait(&mut events, deadline).is_err() {
            break;
        }
        let dispatched = events
            .iter()
            .try_for_each(|event| dispatch(&mut board, mailbox, *event));
        if dispatched.is_err() {
            break;
        }
        on_deadlines(&mut board);
        for _ in 0..board.queue.len() {
            let Some(id) = board.queue.pop_front() else {
                break;
            };
            if let Some(connection) = board.connections.get_mut(&id) {
                connection.queued = false;
                board.serve(id);
            }
        }
        board.settle();
    }
    mailbox.seal();
}

fn dispatch(board: &mut Board, mailbox: &Mailbox, event: Event) -> Result<(), Ended> {
    match event.token {
        Token::Wake => {
            for command in mailbox.take() {
                obey(board, command)?;
            }
        }
        Token::Listener(id) => board.on_client(id),
        Token::Connection(id) => board.on_connection(id, event),
    }
    Ok(())
}

fn obey(board: &mut Board, command: Command) -> Result<(), Ended> {
    match command {
        Command::Close => return Err(Ended),
        Command::Link(listener, peer) => {
            // Checked when it was posted; what is left to fail is epoll out of
            // memory, and then closing the listener tells the peer.
            let _ = board.add_listener(listener, Clients::Peer(peer));
        }
        Command::SetRules(rules, done) => {
            board.set_rules(rules);
            board.settle();
            // Who asked may have given up waiting.
            let _ = done.try_send(());
        }
    }
    Ok(())
}

fn on_deadlines(board: &mut Board) {
    let now = Instant::now();
    while let Some(token) = board.timers.expired(now) {
        match token {
            Token::Wake => {}
            Token::Listener(id) => board.resume_listener(id),
            // Another keeper does not answer: for us it is dead.
            Token::Connection(id) => board.hang_up(id),
        }
    }
}
