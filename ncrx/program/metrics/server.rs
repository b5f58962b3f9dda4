// SPDX-License-Identifier: GPL-2.0

//! The HTTP server: a thread of its own, with limits, so that no client can stop another one, or
//! anything else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use super::Metrics;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most clients that are served at a time; more have to wait.
const CLIENTS: usize = 64;
/// The longest that a client may take for a request, or to read some of the page.
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

/// Serves the page, for ever.
pub fn serve(listener: TcpListener, metrics: Arc<Metrics>) -> io::Result<()> {
    let pages = Router::new()
        .route("/metrics", get(numbers))
        .fallback(|| async { (StatusCode::NOT_FOUND, "They are at /metrics.\n") })
        .with_state(metrics);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(listener, pages))
}

async fn accept(listener: TcpListener, pages: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let permit = clients.clone().acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("cannot accept a client: {e}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_read_timeout(Some(PATIENCE));
        stream.set_write_timeout(Some(PATIENCE));
        let pages = TowerToHyperService::new(pages.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let stream = TokioIo::new(Box::pin(stream));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(REQUEST)
                .serve_connection(stream, pages)
                .await;
            if let Err(e) = served {
                tracing::debug!("a client of the metrics: {e}");
            }
        });
    }
}

async fn numbers(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
