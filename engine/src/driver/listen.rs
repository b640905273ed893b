//! The listening socket of one shard. What is set on it, its connections inherit.

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// How long the kernel waits on a silent peer before it asks.
const KEEPALIVE_TIME: Duration = Duration::from_secs(120);
/// How long bytes may stay unacknowledged before the connection is given up.
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(30);

/// Listens on `address`, beside the other shards of this process.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX))?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Fails if somebody listens on `address`: shards share a port among themselves, and another
/// process of the same user could join them unnoticed and take half the clients.
pub fn expect_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Raises the soft limit on open files to the hard one, which bounds a uring's table of sockets.
/// Returns it.
pub fn raise_open_files() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_a_port_and_strangers_do_not_join_them() {
        let first = listen("127.0.0.1:0".parse().unwrap(), 8).unwrap();
        let address = first.local_addr().unwrap();
        assert!(expect_free(address).is_err());
        let second = listen(address, 8).unwrap();
        drop((first, second));
        expect_free(address).unwrap();
    }
}
