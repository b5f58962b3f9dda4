// SPDX-License-Identifier: GPL-2.0

//! The socket of a worker: many datagrams a call, the count of those that the kernel has dropped,
//! and responses that leave from the address that the sender has written to.
//!
//! The last matters: the module's socket is connected to the address it sends to, and hears no
//! other. Where the receiver has several the kernel would choose one by its routes.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use foldhash::HashMap;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in6_addr, in6_pktinfo, in_addr, in_pktinfo};
use nix::sys::socket::{
    bind, getsockopt, recvmmsg, sendmsg, setsockopt, socket, sockopt, AddressFamily,
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType,
    SockaddrStorage,
};

/// The most datagrams that a call takes.
pub const BATCH: usize = 64;
/// The longest datagram.
const LONGEST: usize = 1 << 16;
/// The bytes from one datagram's place to the next. Were it a power of two, the beginnings of all
/// of them would have the same few places in the CPU's caches.
const STRIDE: usize = LONGEST + 5 * 64;
/// The most senders for which the address is remembered that they write to.
const ROUTES: usize = 100_000;

/// A socket that receives datagrams.
pub struct Socket {
    socket: UdpSocket,
    local: SocketAddr,
    buffer: Vec<u8>,
    /// The address that each sender writes to, if the socket listens at all of them.
    routes: HashMap<SocketAddr, IpAddr>,
    /// The kernel's counter when it was last told, which wraps, and ours.
    told: u32,
    dropped: u64,
}

impl Socket {
    /// Opens this many sockets at an address; the kernel deals the senders out to them.
    pub fn open(at: SocketAddr, workers: u16, receive_buffer: u64) -> io::Result<Vec<Self>> {
        // Alone at first: were SO_REUSEPORT set, another ncrx would take half of our senders.
        let mut early = false;
        let alone = match Self::bind(at, false, early) {
            Err(Errno::EAFNOSUPPORT) if at.ip() == Ipv6Addr::UNSPECIFIED => {
                Self::bind((Ipv4Addr::UNSPECIFIED, at.port()).into(), false, early)
            }
            Err(Errno::EADDRNOTAVAIL) => {
                early = true;
                tracing::warn!(
                    "{} is no address of this machine yet (`ip address` shows what it has): it is \
                     listened at as soon as it is",
                    at.ip()
                );
                Self::bind(at, false, early)
            }
            bound => bound,
        }?;
        let local = alone.local_addr()?;
        let sockets = if workers == 1 {
            vec![alone]
        } else {
            drop(alone);
            (0..workers)
                .map(|_| Self::bind(local, true, early))
                .collect::<Result<_, _>>()?
        };
        Self::enlarge(&sockets, receive_buffer)?;
        let new = |socket| Self {
            socket,
            local,
            buffer: vec![0; BATCH * STRIDE],
            routes: HashMap::default(),
            told: 0,
            dropped: 0,
        };
        Ok(sockets.into_iter().map(new).collect())
    }

    /// Opens one; `early` is before the machine has the address.
    fn bind(at: SocketAddr, shared: bool, early: bool) -> Result<UdpSocket, Errno> {
        let family = if at.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::ReusePort, &shared)?;
        setsockopt(&fd, sockopt::RxqOvfl, &1)?;
        if early {
            // Of IPv6's sockets as well.
            setsockopt(&fd, sockopt::IpFreebind, &true)?;
        }
        if at.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
        }
        // Where it has a single address that is known, and costs something with each datagram.
        match at.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            _ => {}
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
        Ok(fd.into())
    }

    fn enlarge(sockets: &[UdpSocket], size: u64) -> io::Result<()> {
        let wanted = usize::try_from(size.min(i32::MAX as u64 / 2)).unwrap_or(usize::MAX);
        let mut granted = wanted;
        for socket in sockets {
            if setsockopt(socket, sockopt::RcvBufForce, &wanted).is_err() {
                setsockopt(socket, sockopt::RcvBuf, &wanted)?;
            }
            // The kernel doubles it for what it needs itself.
            granted = granted.min(getsockopt(socket, sockopt::RcvBuf)? / 2);
        }
        if granted < wanted {
            tracing::warn!(
                "the kernel grants {granted} bytes of --receive-buffer {wanted}: what does not fit \
                 is lost or has to be sent again. `sysctl net.core.rmem_max={wanted}` lets it be more"
            );
        }
        Ok(())
    }

    /// Returns the address that it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Returns the number of datagrams that the kernel had to drop.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Hands out the datagrams that are there, [`BATCH`] at most; returns their number.
    pub fn receive(&mut self, mut take: impl FnMut(SocketAddr, &[u8])) -> io::Result<usize> {
        // Both anew for each call: nix does not reset what the kernel has written to them.
        let room = cmsg_space!(u32, in6_pktinfo);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(room));
        let chunks = self.buffer.chunks_exact_mut(STRIDE);
        let mut slices: Vec<_> = chunks
            .map(|chunk| [IoSliceMut::new(&mut chunk[..LONGEST])])
            .collect();
        let fd = self.socket.as_raw_fd();
        let batch = match recvmmsg(
            fd,
            &mut headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            batch => batch?,
        };
        let mut count = 0;
        for datagram in batch {
            count += 1;
            let Some(from) = datagram.address.as_ref().and_then(canonical) else {
                continue;
            };
            for message in datagram.cmsgs()? {
                let to = match message {
                    ControlMessageOwned::RxqOvfl(told) => {
                        self.dropped += u64::from(told.wrapping_sub(self.told));
                        self.told = told;
                        continue;
                    }
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into()
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        IpAddr::from(info.ipi6_addr.s6_addr).to_canonical()
                    }
                    _ => continue,
                };
                // A sender that is forgotten is known again with the next datagram.
                if self.routes.len() >= ROUTES && !self.routes.contains_key(&from) {
                    self.routes.clear();
                }
                self.routes.insert(from, to);
            }
            take(from, datagram.iovs().next().unwrap_or_default());
        }
        Ok(count)
    }

    /// Sends a response, from the address that the sender has written to.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let Some(&from) = self.routes.get(&to) else {
            return self.send_with(to, bytes, &[]);
        };
        let sent = match from {
            IpAddr::V4(ip) if self.local.is_ipv4() => {
                let info = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(ip.octets()),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                self.send_with(to, bytes, &[ControlMessage::Ipv4PacketInfo(&info)])
            }
            from => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: mapped(from).octets(),
                    },
                    ipi6_ifindex: 0,
                };
                self.send_with(to, bytes, &[ControlMessage::Ipv6PacketInfo(&info)])
            }
        };
        match sent {
            // It was a broadcast, or is no more ours.
            Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {
                self.send_with(to, bytes, &[])
            }
            sent => sent,
        }
    }

    fn send_with(
        &self,
        to: SocketAddr,
        bytes: &[u8],
        with: &[ControlMessage<'_>],
    ) -> io::Result<()> {
        let to = match to {
            SocketAddr::V4(to) if self.local.is_ipv6() => {
                (mapped((*to.ip()).into()), to.port()).into()
            }
            to => to,
        };
        let to = SockaddrStorage::from(to);
        let slices = [IoSlice::new(bytes)];
        sendmsg(
            self.socket.as_raw_fd(),
            &slices,
            with,
            MsgFlags::MSG_DONTWAIT,
            Some(&to),
        )?;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the sender's address; an IPv4 one as such, however it came.
fn canonical(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*address).into()));
    }
    let address = SocketAddrV6::from(*address.as_sockaddr_in6()?);
    Some(match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, address.port(), 0, address.scope_id()).into(),
    })
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
