// SPDX-License-Identifier: GPL-2.0

//! The HTTP server of the metrics and of the page for people: each has a thread of its own, with
//! limits, so that no client can stop another one, or anything else.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{service_fn, Service};
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
/// The type of answers that do not end.
const EVENTS: &str = "text/event-stream";
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

/// A connection.
struct Client {
    address: IpAddr,
    /// Whether it was answered with what comes live: then it is meant to last.
    live: Arc<AtomicBool>,
    task: AbortHandle,
}

/// The connections, in the order in which they came.
#[derive(Default)]
struct Clients(VecDeque<Client>);

impl Clients {
    /// Makes room for another one: of the address that has the most the oldest is closed that shows
    /// nothing live, if there is one. A scrape takes milliseconds, so that is one that has been
    /// slow; behind a proxy all are of one address.
    fn make_room(&mut self) {
        self.0.retain(|client| !client.task.is_finished());
        if self.0.len() < CLIENTS {
            return;
        }
        let of = |address: IpAddr| self.0.iter().filter(move |other| other.address == address);
        let rank = |client: &Client| {
            let lasts = client.live.load(Relaxed);
            (Reverse(of(client.address).count()), lasts)
        };
        let ranks = self.0.iter().map(rank).enumerate();
        let worst = ranks.min_by_key(|(_, rank)| *rank).map(|(at, _)| at);
        if let Some(client) = worst.and_then(|at| self.0.remove(at)) {
            tracing::debug!("{} has too many connections", client.address);
            client.task.abort();
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
        let live = Arc::new(AtomicBool::new(false));
        let shows = live.clone();
        let pages = service_fn(move |request| {
            let (answer, shows) = (pages.call(request), shows.clone());
            async move {
                let answer = answer.await?;
                let kind = answer.headers().get(CONTENT_TYPE);
                shows.store(kind.is_some_and(|kind| kind == EVENTS), Relaxed);
                Ok::<_, Infallible>(answer)
            }
        });
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
        clients.0.push_back(Client {
            address: from.ip(),
            live,
            task: client.abort_handle(),
        });
        // However many come at once: whoever has asked is answered before the next.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_views_make_room_last() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let client = |last: u8, live: bool| Client {
            address: [10, 0, 0, last].into(),
            live: Arc::new(live.into()),
            task: runtime.spawn(std::future::pending::<()>()).abort_handle(),
        };
        let mut clients = Clients::default();
        // Another address has one, and was first.
        clients.0.push_back(client(2, false));
        let live = |nth: usize| client(1, nth < 16);
        clients.0.extend((1..CLIENTS).map(live));
        let views = |clients: &Clients| {
            let live = clients.0.iter().filter(|client| client.live.load(Relaxed));
            live.count()
        };
        let all = views(&clients);
        for _ in 0..CLIENTS {
            clients.make_room();
            assert_eq!((clients.0.len(), views(&clients)), (CLIENTS - 1, all));
            clients.0.push_back(client(1, false));
        }
        assert_eq!(clients.0[0].address, IpAddr::from([10, 0, 0, 2]));
        // Nothing else is left to close.
        clients.0.clear();
        clients.0.extend((0..CLIENTS).map(|_| client(1, true)));
        clients.make_room();
        assert_eq!(clients.0.len(), CLIENTS - 1);
    }
}
