// SPDX-License-Identifier: GPL-2.0

//! The page for people (`--web`): hosts, crashes, what comes live. It only reads, and it is made of
//! three files and some JSON.
//!
//! All that a sender has a hand in is escaped as text is, and the page's script shows it as text
//! only. A strict `Content-Security-Policy` would let nothing else be run, should that ever fail.
//! At a loopback address only requests that name one are answered, so that no page of the internet
//! whose name leads here can read logs (DNS rebinding).

mod history;
mod live;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path as Part, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokio::sync::Semaphore;

use crate::commands::{crashes, hosts, moment};
use crate::crashes::Hub;
use crate::format::{level, shown};
use crate::http;
use crate::index::Filter;
use crate::metrics::Metrics;
use crate::overview::{now, Overview, Sort, Wanted, STATES};
use history::History;
pub use live::Live;

/// The most hosts of one answer.
const HOSTS: usize = 100;
/// The most bugs of one answer.
const BUGS: usize = 500;
/// The most questions that wait for the index: also of clients that are gone by then.
const QUESTIONS: usize = 8;

/// The headers of all answers.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// The sources of the page.
struct Web {
    overview: Mutex<Overview>,
    history: Mutex<History>,
    questions: Arc<Semaphore>,
    hub: Arc<Hub>,
    /// Whether only requests that name a loopback address are answered.
    loopback: bool,
}

/// Serves the page, for ever. It shows the index of this directory.
pub fn serve(
    listener: TcpListener,
    index: &Path,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let web = Arc::new(Web {
        overview: Mutex::new(Overview::open(index)?),
        history: Mutex::default(),
        questions: Arc::new(Semaphore::new(QUESTIONS)),
        hub,
        loopback: listener.local_addr()?.ip().to_canonical().is_loopback(),
    });
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    let pages = Router::new()
        .route(
            "/",
            file("text/html; charset=utf-8", include_str!("page.html")),
        )
        .route(
            "/page.js",
            file("text/javascript; charset=utf-8", include_str!("page.js")),
        )
        .route(
            "/page.css",
            file("text/css; charset=utf-8", include_str!("page.css")),
        )
        .route("/api/hosts", get(list_hosts))
        .route("/api/crashes", get(list_crashes))
        .route("/api/crash/{id}", get(show_crash))
        .route("/api/history", get(show_history))
        .route("/api/tail", get(tail))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is nothing here.\n") })
        .layer(middleware::from_fn_with_state(web.clone(), guard))
        .with_state(web.clone());
    http::serve("web", listener, pages, history::keep(web, metrics))?;
    Ok(())
}

/// Answers only who may ask, with the headers that all answers have.
async fn guard(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let refused = if web.loopback && !names_loopback(headers) {
        Some("This page is served to this machine only: use http://127.0.0.1 or localhost.\n")
    } else if is_of_another_page(headers) {
        Some("Other pages have no business here.\n")
    } else {
        None
    };
    let mut response = match refused {
        Some(why) => (StatusCode::MISDIRECTED_REQUEST, why).into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// Returns whether the request is to a loopback address, by what its sender calls it.
fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    host.is_some_and(|host| {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
            _ => host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']').parse();
        name.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
    })
}

/// Returns whether a page of another site asks, but for a person who follows a link.
fn is_of_another_page(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|is| is == value);
    is("sec-fetch-site", "cross-site") && !is("sec-fetch-mode", "navigate")
}

/// Returns an answer in JSON, with all strings escaped as text is.
fn answer(value: &impl Serialize) -> Response {
    let text = serde_json::to_value(value)
        .map(harmless)
        .and_then(|value| serde_json::to_vec(&value));
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => shown(text.as_bytes()).into(),
        Value::Array(all) => all.into_iter().map(harmless).collect(),
        Value::Object(all) => {
            let pairs = all.into_iter();
            pairs.map(|(key, value)| (key, harmless(value))).collect()
        }
        other => other,
    }
}

/// Refuses what is no question, and says what one is like.
fn refuse(name: &str, why: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{name}: {why}.\n")).into_response()
}

/// Asks the index, in a thread that may wait for it.
async fn ask(
    web: Arc<Web>,
    question: impl FnOnce(&mut Overview) -> anyhow::Result<Option<Value>> + Send + 'static,
) -> Response {
    let Ok(turn) = web.questions.clone().try_acquire_owned() else {
        let (after, why) = (
            [(header::RETRY_AFTER, "1")],
            "Too many ask: try again later.\n",
        );
        return (StatusCode::SERVICE_UNAVAILABLE, after, why).into_response();
    };
    let asked = tokio::task::spawn_blocking(move || {
        // Until it is answered, whether or not anybody waits for that.
        let _turn = turn;
        let mut overview = web.overview.lock().unwrap_or_else(PoisonError::into_inner);
        question(&mut overview)
    });
    match asked.await {
        Ok(Ok(Some(value))) => answer(&value),
        Ok(Ok(None)) => (StatusCode::NOT_FOUND, "There is none.\n").into_response(),
        Ok(Err(e)) => {
            tracing::warn!("--web: cannot read the index: {e:#}");
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "The index cannot be read.\n",
            )
                .into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
struct HostsQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    page: usize,
}

/// A host as the page has it.
#[derive(Serialize)]
struct HostObject<'a> {
    #[serde(flatten)]
    host: hosts::Object<'a>,
    rate: f64,
    lag: Option<u64>,
    silent: u64,
}

async fn list_hosts(State(web): State<Arc<Web>>, Query(query): Query<HostsQuery>) -> Response {
    if !query.state.is_empty() && !STATES.contains(&query.state.as_str()) {
        return refuse("state", &format!("there is {}", STATES.join(", ")));
    }
    ask(web, move |overview| {
        overview.refresh()?;
        let wanted = Wanted {
            text: query.q,
            state: Some(query.state).filter(|state| !state.is_empty()),
            sort: query.sort,
            reverse: false,
        };
        let now = now();
        let hosts = overview.hosts(&wanted);
        let page = query.page.min(hosts.len().saturating_sub(1) / HOSTS);
        let rows = hosts.iter().skip(page * HOSTS).take(HOSTS);
        let rows: Vec<_> = rows
            .map(|host| HostObject {
                host: hosts::object(&host.line, now),
                rate: host.rate,
                lag: host.lag(),
                silent: now.saturating_sub(host.line.heard) / 1_000_000,
            })
            .collect();
        let counts = STATES.into_iter().zip(overview.counts());
        let counts: Vec<_> = counts.collect();
        Ok(Some(json!({
            "total": hosts.len(), "page": page, "pages": hosts.len().div_ceil(HOSTS),
            "states": counts, "hosts": rows,
        })))
    })
    .await
}

#[derive(Deserialize)]
struct CrashesQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    since: String,
}

async fn list_crashes(State(web): State<Arc<Web>>, Query(query): Query<CrashesQuery>) -> Response {
    let since = Some(query.since.as_str()).filter(|since| !since.is_empty());
    let since = match since.map(moment).transpose() {
        Ok(since) => since,
        Err(why) => return refuse("since", &why),
    };
    ask(web, move |overview| {
        let filter = Filter {
            since,
            ..Filter::default()
        };
        let text = query.q.to_lowercase();
        let found = overview.reader().crashes(&filter)?;
        let fits = |title: &str| shown(title.as_bytes()).to_lowercase().contains(&text);
        let fits = |bug: &&crate::index::Found| fits(&bug.title) || fits(&bug.signature);
        let bugs: Vec<_> = found.iter().filter(fits).collect();
        let rows: Vec<_> = bugs
            .iter()
            .take(BUGS)
            .map(|bug| crashes::line(bug))
            .collect();
        Ok(Some(json!({ "total": bugs.len(), "bugs": rows })))
    })
    .await
}

async fn show_crash(State(web): State<Arc<Web>>, Part(id): Part<String>) -> Response {
    ask(web, move |overview| {
        let crash = overview.reader().crash(&id)?;
        Ok(match crash {
            Some(crash) => Some(serde_json::to_value(crashes::object(&crash))?),
            None => None,
        })
    })
    .await
}

async fn show_history(State(web): State<Arc<Web>>) -> Response {
    let history = web.history.lock().unwrap_or_else(PoisonError::into_inner);
    answer(&*history)
}

async fn tail(State(web): State<Arc<Web>>, Query(filter): Query<live::Filter>) -> Response {
    if let Some(Err(why)) = filter.level.map(|number| level(&number.to_string())) {
        return refuse("level", &why);
    }
    match web.hub.live.tail(filter) {
        Some(events) => events.into_response(),
        None => {
            let why = "Too many look at what comes live: try again later.\n";
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}

/// Says who can read it, if that is not only this machine.
pub fn warn(at: SocketAddr) {
    if !at.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "--web {at}: whoever reaches this address can read all logs. Put a proxy in front of a \
             loopback address to have people log in"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Writer;

    #[test]
    fn questions_are_bounded_also_of_clients_that_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        Writer::open(dir.path()).unwrap();
        let web = Arc::new(Web {
            overview: Mutex::new(Overview::open(dir.path()).unwrap()),
            history: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            hub: Arc::default(),
            loopback: true,
        });
        let question = |web: &Arc<Web>| ask(web.clone(), |_| Ok(Some(json!(1))));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        // Another one takes long.
        let busy = web.overview.lock().unwrap_or_else(PoisonError::into_inner);
        let asked: Vec<_> = (0..QUESTIONS)
            .map(|_| runtime.spawn(question(&web)))
            .collect();
        while web.questions.available_permits() > 0 {
            runtime.block_on(tokio::task::yield_now());
        }
        asked.iter().for_each(|asked| asked.abort());
        for asked in asked {
            assert!(runtime.block_on(asked).unwrap_err().is_cancelled());
        }
        assert_eq!(runtime.block_on(question(&web)).status(), 503);
        drop(busy);
        while web.questions.available_permits() < QUESTIONS {
            std::thread::yield_now();
        }
        assert_eq!(runtime.block_on(question(&web)).status(), 200);
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_loopback_is_called_so() {
        for (host, is) in [
            ("localhost", true),
            ("LOCALHOST:9667", true),
            ("127.0.0.1:9667", true),
            ("127.8.8.8", true),
            ("[::1]:1", true),
            ("[::1]", true),
            ("", false),
            ("evil.example:9667", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.nip.io", false),
            ("10.0.0.1:9667", false),
            ("user@localhost", false),
        ] {
            assert_eq!(names_loopback(&headers(&[("host", host)])), is, "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }

    #[test]
    fn other_pages_are_refused_but_not_their_links() {
        let cross = ("sec-fetch-site", "cross-site");
        assert!(is_of_another_page(&headers(&[
            cross,
            ("sec-fetch-mode", "no-cors")
        ])));
        assert!(!is_of_another_page(&headers(&[
            cross,
            ("sec-fetch-mode", "navigate")
        ])));
        assert!(!is_of_another_page(&headers(&[(
            "sec-fetch-site",
            "same-origin"
        )])));
    }

    #[test]
    fn all_strings_are_harmless() {
        let value = json!({"a": ["\u{1b}[2J", {"b": "\u{202e}x"}], "n": 1});
        let text = harmless(value).to_string();
        assert_eq!(text, r#"{"a":["\\x1b[2J",{"b":"\\xe2\\x80\\xaex"}],"n":1}"#);
    }
}
