// SPDX-License-Identifier: GPL-2.0

//! The HTTP server of the metrics and of the page for people: each has a thread of its own, with
//! limits, so that no client can stop another one, or anything else.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Builder;
use tokio::task::AbortHandle;
use tokio_io_timeout::TimeoutStream;

/// The most clients that are connected at a time: each may hold a page.
const CLIENTS: usize = 32;
/// The most threads that ask the index at a time.
const QUERIES: usize = 2;
/// The longest that a client may take for the head of a request: of the next one, too.
const HEAD: Duration = Duration::from_secs(3);
/// The longest that a client may take to read some of a page.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause when no more files can be open.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest request.
const REQUEST: usize = 16 << 10;

/// Listens there.
pub fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves these pages, for ever, in a thread of this name. `beside` goes on in that thread, too.
pub fn serve(
    name: &'static str,
    listener: TcpListener,
    pages: Router,
    beside: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(QUERIES)
        .build()?;
    let served = move || {
        runtime.spawn(beside);
        if let Err(e) = runtime.block_on(accept(listener, pages)) {
            tracing::error!("{name}: nothing is served any more: {e}");
        }
    };
    thread::Builder::new().name(name.into()).spawn(served)?;
    Ok(())
}

/// The connections, in the order in which they came.
#[derive(Default)]
struct Clients(VecDeque<(IpAddr, AbortHandle)>);

impl Clients {
    /// Makes room for another one: of the address that has the most the oldest is closed. A scrape
    /// takes milliseconds, so that is one that has been slow.
    fn make_room(&mut self) {
        self.0.retain(|(_, client)| !client.is_finished());
        if self.0.len() < CLIENTS {
            return;
        }
        let of = |address: IpAddr| self.0.iter().filter(move |(other, _)| *other == address);
        let counts = self.0.iter().map(|(address, _)| of(*address).count());
        let counts: Vec<_> = counts.collect();
        let most = counts.iter().max();
        let oldest = counts.iter().position(|count| Some(count) == most);
        if let Some((address, client)) = oldest.and_then(|at| self.0.remove(at)) {
            tracing::debug!("{address} has too many connections");
            client.abort();
        }
    }
}

async fn accept(listener: TcpListener, pages: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut clients = Clients::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::debug!("cannot accept a client: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(PATIENCE));
        let pages = TowerToHyperService::new(pages.clone());
        clients.make_room();
        let client = tokio::spawn(async move {
            let stream = TokioIo::new(Box::pin(stream));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(REQUEST)
                .serve_connection(stream, pages)
                .await;
            if let Err(e) = served {
                tracing::debug!("a client: {e}");
            }
        });
        clients.0.push_back((from.ip(), client.abort_handle()));
        // However many come at once: whoever has asked is answered before the next.
        tokio::task::yield_now().await;
    }
}
