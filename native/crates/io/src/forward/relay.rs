//! Bytes from one socket to the other through a pipe, by splice(2): they are never copied to user space.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// Bytes asked of one splice; a pipe has room for 64 KiB.
const SPLICE_MAX: usize = 1 << 20;
/// Splices of one direction before the other connections have their turn.
const SPLICES_PER_TURN: u32 = 32;
/// Empty pipes that are kept for the next who needs one.
const POOL_MAX: usize = 64;

/// A pipe whose ends are both ours.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

/// Empty pipes. A direction has one only while bytes are under way in it.
#[derive(Debug, Default)]
pub struct Pool(Vec<Pipe>);

impl Pool {
    fn take(&mut self) -> Result<Pipe, Errno> {
        match self.0.pop() {
            Some(pipe) => Ok(pipe),
            None => {
                let (out, into) =
                    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                Ok(Pipe { out, into })
            }
        }
    }

    fn give(&mut self, pipe: Pipe) {
        if self.0.len() < POOL_MAX {
            self.0.push(pipe);
        }
    }
}

/// A socket, and what the kernel has last said of it (edge-triggered).
#[derive(Debug)]
pub struct End {
    /// Non-blocking.
    pub socket: OwnedFd,
    /// A read may give something.
    pub readable: bool,
    /// A write may take something.
    pub writable: bool,
}

impl End {
    /// A socket of which nothing is known yet, so everything is tried.
    pub fn new(socket: OwnedFd) -> End {
        End {
            socket,
            readable: true,
            writable: true,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Flow {
    pipe: Option<Pipe>,
    pending: usize,
    ended: bool,
    shut: bool,
    bytes: u64,
}

/// Whether a flow has more to do without waiting for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits for one of the sockets.
    Waits,
    /// It could go on; others have their turn first.
    Again,
}

impl Flow {
    /// Everything has been passed on, and the end too.
    pub fn is_done(&self) -> bool {
        self.shut
    }

    /// Bytes passed on since the last call.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Move what can be moved. An error is one of a socket, after which the connection cannot go on.
    pub fn pump(
        &mut self,
        from: &mut End,
        to: &mut End,
        pool: &mut Pool,
    ) -> Result<Progress, Errno> {
        let mut turns = SPLICES_PER_TURN;
        let progress = loop {
            if turns == 0 {
                break Progress::Again;
            }
            turns -= 1;
            if self.pending > 0 {
                if !to.writable || !self.push(to)? {
                    break Progress::Waits;
                }
            } else if self.ended {
                if !self.shut {
                    // ENOTCONN: the other side has closed both ways already.
                    let _ = rustix::net::shutdown(&to.socket, Shutdown::Write);
                    self.shut = true;
                }
                break Progress::Waits;
            } else if !from.readable || !self.pull(from, pool)? {
                break Progress::Waits;
            }
        };
        if self.pending == 0 {
            if let Some(pipe) = self.pipe.take() {
                pool.give(pipe);
            }
        }
        Ok(progress)
    }

    /// From the socket to the pipe; false if there is nothing now.
    fn pull(&mut self, from: &mut End, pool: &mut Pool) -> Result<bool, Errno> {
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pool.take()?,
        };
        let moved = splice(from.socket.as_fd(), pipe.into.as_fd());
        self.pipe = Some(pipe);
        match moved? {
            None => from.readable = false,
            Some(0) => self.ended = true,
            Some(moved) => self.pending = moved,
        }
        Ok(from.readable)
    }

    /// From the pipe to the socket; false if it takes nothing now.
    fn push(&mut self, to: &mut End) -> Result<bool, Errno> {
        let Some(pipe) = &self.pipe else {
            return Err(Errno::PIPE);
        };
        match splice(pipe.out.as_fd(), to.socket.as_fd())? {
            None | Some(0) => to.writable = false,
            Some(moved) => {
                self.pending = self.pending.saturating_sub(moved);
                self.bytes += moved as u64;
            }
        }
        Ok(to.writable)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Option<usize>, Errno> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match rustix::pipe::splice(from, None, to, None, SPLICE_MAX, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            other => return other.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, End) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, End::new(theirs.into()))
    }

    #[test]
    fn bytes_then_the_end() {
        let (mut one, mut from) = pair();
        let (mut other, mut to) = pair();
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        one.write_all(b"hello").unwrap();
        one.shutdown(std::net::Shutdown::Write).unwrap();
        while !flow.is_done() {
            from.readable = true;
            flow.pump(&mut from, &mut to, &mut pool).unwrap();
        }
        assert_eq!((flow.take_bytes(), flow.take_bytes()), (5, 0));
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(pool.0.len(), 1, "the pipe is free again");
        other.write_all(b"the other way still works").unwrap();
    }

    #[test]
    fn a_slow_reader_stops_it_and_a_turn_ends() {
        let (mut one, mut from) = pair();
        let (mut other, mut to) = pair();
        let (mut flow, mut pool) = (Flow::default(), Pool::default());
        let writer = std::thread::spawn(move || one.write_all(&vec![7; 64 << 20]));
        let mut turns = 0;
        while to.writable {
            from.readable = true;
            turns +=
                u64::from(flow.pump(&mut from, &mut to, &mut pool).unwrap() == Progress::Again);
        }
        assert!(
            flow.pending > 0 && pool.0.is_empty(),
            "what the reader does not take stays in the pipe"
        );
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).map(|_| all)
        });
        while !flow.is_done() {
            (from.readable, to.writable) = (true, true);
            turns +=
                u64::from(flow.pump(&mut from, &mut to, &mut pool).unwrap() == Progress::Again);
        }
        writer.join().unwrap().unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), vec![7; 64 << 20]);
        assert!(turns > 0);
    }
}
