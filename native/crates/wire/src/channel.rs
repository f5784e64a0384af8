//! A connected SEQPACKET socket that moves frames with descriptors (FRAME-1, FRAME-2, FRAME-3).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::codec::{HEADER_LEN, REFUSED, VERSION};
use crate::WireError;

/// Bytes of a map that still travels inside the datagram (the kernel takes 212,000).
pub const INLINE_MAX: usize = 131_072;
/// Bytes of the largest map (FRAME-2).
pub const MAP_MAX: usize = 16 * 1024 * 1024;
/// Descriptors of one frame, the memfd of a large map among them (FRAME-3).
pub const DESCRIPTORS_MAX: usize = 64;

const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// One frame as received: the msgpack map and the message's own descriptors, in order.
#[derive(Debug)]
pub struct Received {
    /// Exactly one msgpack map, not yet decoded.
    pub map: Vec<u8>,
    /// At most [`DESCRIPTORS_MAX`], close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// It had descriptors for which this process has no room; `fds` is empty then (FRAME-3).
    pub is_short: bool,
}

/// A connected SEQPACKET socket. Blocking or not is the socket's own flag; one thread receives at a time.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Take a connected socket.
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// Give the socket back.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Connect to the listening socket at `path`; the channel blocks.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Channel> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_ref())?)?;
        Ok(Channel(socket))
    }

    /// Two ends of a new socket pair, close-on-exec and blocking.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Channel(one), Channel(other)))
    }

    /// Accept a connection of a listening socket: its blocking flag is clear, whatever the listener's is.
    pub fn accept(listener: impl AsFd) -> io::Result<Channel> {
        Ok(Channel(rustix::net::accept_with(
            listener,
            SocketFlags::CLOEXEC,
        )?))
    }

    /// Tell a client that has just been accepted why it is not let in, and let it go (FRAME-10).
    pub fn refuse(self, why: &WireError) {
        // Who has gone already need not be told; a new socket's buffer has room, so this never waits.
        let _ = self.send(&crate::error(REFUSED, why), &[]);
    }

    /// Set or clear O_NONBLOCK (of the open file, so of every process that shares it).
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }

    /// User id of the peer at the time of connect (SO_PEERCRED, FRAME-8).
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// Send one map with descriptors. All or nothing; `WouldBlock` on a full non-blocking socket.
    pub fn send(&self, map: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if map.is_empty() || map.len() > MAP_MAX {
            return Err(invalid("a map has 1 byte to 16 MiB"));
        }
        let count = fds.len() + usize::from(map.len() > INLINE_MAX);
        if count > DESCRIPTORS_MAX {
            return Err(invalid("a frame carries at most 64 descriptors"));
        }
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&VERSION.to_le_bytes());
        header[2..].copy_from_slice(&(map.len() as u32).to_le_bytes());
        if map.len() <= INLINE_MAX {
            return self.send_datagram(&[IoSlice::new(&header), IoSlice::new(map)], fds);
        }
        let large = sealed_memfd(map)?;
        let mut all = Vec::with_capacity(fds.len() + 1);
        all.push(large.as_fd());
        all.extend_from_slice(fds);
        self.send_datagram(&[IoSlice::new(&header)], &all)
    }

    fn send_datagram(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(invalid("too many descriptors"));
            }
            match rustix::net::sendmsg(&self.0, parts, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receive one frame; `None` when the peer has closed.
    ///
    /// A frame that breaks FRAME-1, -2 or -3 is `InvalidData`; its descriptors are closed, and the channel is of no
    /// more use. An empty socket gives `WouldBlock` if it does not block.
    pub fn recv(&self) -> io::Result<Option<Received>> {
        // The first look only asks for the size, so that an idle or a small exchange allocates little.
        let size = retry(|| {
            Ok(rustix::net::recv(
                &self.0,
                &mut [0u8; 0][..],
                RecvFlags::PEEK | RecvFlags::TRUNC,
            )?
            .1)
        })?;
        let mut datagram = vec![0; size.clamp(HEADER_LEN, HEADER_LEN + INLINE_MAX)];
        let mut fds = Vec::new();
        let (len, flags) = retry(|| {
            let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut datagram)];
            let message =
                rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = item {
                    fds.extend(received);
                }
            }
            Ok((message.bytes, message.flags))
        })?;
        if len == 0 {
            return Ok(None);
        }
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(invalid("a datagram above 131,078 bytes"));
        }
        datagram.truncate(len);
        let is_short = flags.contains(ReturnFlags::CTRUNC);
        if is_short {
            // There was room for as many as a frame may have; so it is this process that has none.
            if fds.len() >= DESCRIPTORS_MAX {
                return Err(invalid("descriptors were cut off: too many"));
            }
            fds.clear();
            if len == HEADER_LEN {
                return Err(Errno::MFILE.into());
            }
        }
        let received = unpack(datagram, fds)?;
        Ok(Some(Received {
            is_short,
            ..received
        }))
    }

    /// Like [`Channel::recv`] on a blocking or non-blocking channel, but wait at most `timeout`: then `TimedOut`.
    pub fn recv_timeout(&self, timeout: Duration) -> io::Result<Option<Received>> {
        if !self.wait_readable(timeout)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.recv()
    }

    /// Wait until there is something to receive (or the end); false after `timeout`.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let left = Timespec::try_from(left).map_err(|_| invalid("timeout out of range"))?;
            match rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Repeat what a signal interrupted. ECONNRESET too: Linux reports it once, when the peer closed with unread frames,
/// and before the frames that the peer had sent to us, which then still arrive.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => return Ok(other?),
        }
    }
}

/// Split a datagram and its descriptors into map and the message's own descriptors (FRAME-1, FRAME-2).
fn unpack(mut datagram: Vec<u8>, mut fds: Vec<OwnedFd>) -> io::Result<Received> {
    // The kernel rounds the room for them up.
    if fds.len() > DESCRIPTORS_MAX {
        return Err(invalid("a frame carries at most 64 descriptors"));
    }
    let Some((header, rest)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(invalid("a frame shorter than its header"));
    };
    let version = u16::from_le_bytes([header[0], header[1]]);
    let length = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
    if version != VERSION {
        return Err(invalid("a frame of another version"));
    }
    if length == 0 || length > MAP_MAX {
        return Err(invalid("a map has 1 byte to 16 MiB"));
    }
    let map = if rest.is_empty() {
        if fds.is_empty() {
            return Err(invalid("a large frame without its memfd"));
        }
        read_sealed(&fds.remove(0), length)?
    } else {
        if rest.len() != length {
            return Err(invalid("a frame whose length is not that of its datagram"));
        }
        datagram.drain(..HEADER_LEN);
        datagram
    };
    Ok(Received {
        map,
        fds,
        is_short: false,
    })
}

/// A memfd with `bytes` that nobody can change any more.
fn sealed_memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("zos-frame", flags)?);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// The bytes of a memfd with all four seals and exactly `length` bytes.
fn read_sealed(memfd: &OwnedFd, length: usize) -> io::Result<Vec<u8>> {
    let seals = rustix::fs::fcntl_get_seals(memfd)
        .map_err(|_| invalid("the first descriptor is no memfd"))?;
    if !seals.contains(SEALS) {
        return Err(invalid("the memfd of a large frame lacks a seal"));
    }
    if rustix::fs::fstat(memfd)?.st_size as u64 != length as u64 {
        return Err(invalid("the memfd of a large frame has another size"));
    }
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match rustix::io::pread(memfd, &mut bytes[at..], at as u64) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(invalid("the memfd of a large frame ends early")),
            Ok(read) => at += read,
        }
    }
    Ok(bytes)
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn raw_send(channel: &Channel, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        channel.send_datagram(&[IoSlice::new(bytes)], fds).unwrap();
    }

    fn refused(channel: &Channel) {
        assert_eq!(
            channel.recv().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn small_and_large_maps_with_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        for size in [1, INLINE_MAX, INLINE_MAX + 1, 1 << 20] {
            let map: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            let file = sealed_memfd(b"hello").unwrap();
            a.send(&map, &[file.as_fd(), a.as_fd()]).unwrap();
            let got = b.recv().unwrap().unwrap();
            assert_eq!(got.map, map);
            assert_eq!(got.fds.len(), 2);
            let mut text = String::new();
            let mut file = File::from(got.fds.into_iter().next().unwrap());
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
    }

    #[test]
    fn limits_of_the_sender() {
        let (a, _b) = Channel::pair().unwrap();
        assert!(a.send(&[], &[]).is_err());
        assert!(a.send(&vec![0; MAP_MAX + 1], &[]).is_err());
        assert!(a.send(&[0x80], &[a.as_fd(); DESCRIPTORS_MAX + 1]).is_err());
    }

    #[test]
    fn sixty_four_descriptors_with_the_memfd() {
        let (a, b) = Channel::pair().unwrap();
        let map = vec![1; INLINE_MAX + 1];
        assert!(a.send(&map, &[a.as_fd(); DESCRIPTORS_MAX]).is_err());
        a.send(&map, &[a.as_fd(); DESCRIPTORS_MAX - 1]).unwrap();
        assert_eq!(b.recv().unwrap().unwrap().fds.len(), DESCRIPTORS_MAX - 1);
    }

    #[test]
    fn broken_frames() {
        let (a, b) = Channel::pair().unwrap();
        raw_send(&a, b"\x01\0\x01", &[]);
        refused(&b);
        raw_send(&a, b"\x02\0\x01\0\0\0\x80", &[]);
        refused(&b);
        raw_send(&a, b"\x01\0\x02\0\0\0\x80", &[]);
        refused(&b);
        raw_send(&a, b"\x01\0\x00\0\0\0", &[]);
        refused(&b);
        raw_send(&a, b"\x01\0\x01\0\0\0", &[]);
        refused(&b);
        raw_send(&a, &vec![0; INLINE_MAX + HEADER_LEN + 1], &[]);
        refused(&b);
        raw_send(
            &a,
            b"\x01\0\x01\0\0\0\x80",
            &vec![a.as_fd(); DESCRIPTORS_MAX + 1],
        );
        refused(&b);
        a.send(&[0x80], &[]).unwrap();
        assert_eq!(
            b.recv().unwrap().unwrap().map,
            [0x80],
            "the next good frame still arrives"
        );
    }

    #[test]
    fn memfds_that_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        let header = b"\x01\0\x05\0\0\0";
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut open = File::from(rustix::fs::memfd_create("t", flags).unwrap());
        open.write_all(b"hello").unwrap();
        raw_send(&a, header, &[open.as_fd()]);
        refused(&b);
        rustix::fs::fcntl_add_seals(
            &open,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK,
        )
        .unwrap();
        raw_send(&a, header, &[open.as_fd()]);
        refused(&b);
        raw_send(&a, header, &[sealed_memfd(b"hello!").unwrap().as_fd()]);
        refused(&b);
        raw_send(&a, header, &[a.as_fd()]);
        refused(&b);
        raw_send(&a, header, &[sealed_memfd(b"hello").unwrap().as_fd()]);
        assert_eq!(b.recv().unwrap().unwrap().map, b"hello");
    }

    #[test]
    fn end_reset_and_timeout() {
        let (a, b) = Channel::pair().unwrap();
        let timeout = b.recv_timeout(Duration::from_millis(1)).unwrap_err();
        assert_eq!(timeout.kind(), io::ErrorKind::TimedOut);
        b.send(b"unread", &[]).unwrap();
        a.send(b"last", &[]).unwrap();
        drop(a);
        assert_eq!(
            b.recv().unwrap().unwrap().map,
            b"last",
            "what was sent before the reset arrives"
        );
        assert!(b.recv().unwrap().is_none());
        assert_eq!(
            b.send(b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        let (a, b) = Channel::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        assert_eq!(b.recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(a.peer_uid().unwrap(), rustix::process::geteuid().as_raw());
    }
}
