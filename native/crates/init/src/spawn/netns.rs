//! Network namespaces that outlive the container they were made for.

use std::os::fd::OwnedFd;

use rustix::fs::{openat, Mode, OFlags, CWD};

use super::failure::{Outcome, Step};

/// Leaves the caller's network namespace for a new one whose `lo` is up: its descriptor, and a route socket inside it.
pub fn make() -> Outcome<Vec<OwnedFd>> {
    linux::clone::unshare(linux::clone::NEWNET).step("unshare-net")?;
    linux::netif::loopback_up().step("lo-up")?;
    let socket = linux::netif::route_socket().step("route-socket")?;
    let namespace = openat(
        CWD,
        "/proc/self/ns/net",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    Ok(vec![namespace.step("open-netns")?, socket])
}
