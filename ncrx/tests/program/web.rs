// SPDX-License-Identifier: GPL-2.0

//! The page for people, by HTTP and in a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::crashes::{oops, send};
use crate::harness::{command, until, Ncrx, Sender};

/// A host's name, and a text, that would be markup were they not shown as text.
const NAME: &str = "<script>document.title='owned'";
const TEXT: &str = "</pre><img src=x onerror=\"document.title='owned'\">\u{1b}[2J";

/// A receiver with the page, where 127.0.0.2 is called [`NAME`].
struct Page {
    ncrx: Ncrx,
    at: SocketAddr,
    dir: tempfile::TempDir,
}

impl Page {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = dir.path().join("names");
        std::fs::write(&names, format!("127.0.0.2 {NAME}\n")).unwrap();
        let args = format!(
            "--web 127.0.0.1:0 --index {}/index --host-names {} --output {}/all.json",
            dir.path().display(),
            names.display(),
            dir.path().display()
        );
        let ncrx = Ncrx::run(command(["--listen", "127.0.0.1:0"]).args(args.split(' ')));
        let line = ncrx.wait_log("the page is at");
        let at = line.split("//").nth(1).unwrap();
        let at = at.trim_end_matches('/').parse().unwrap();
        Self { ncrx, at, dir }
    }

    /// Has a host of this address crash, with a hostile text before it.
    fn crash(&self, address: &str) -> Sender {
        let sender = Sender::bound(&format!("{address}:0"), self.ncrx.at);
        let mut lines = oops("foo_bar", 7);
        lines[0] = TEXT.replace('\u{1b}', "\\x1b");
        send(&sender, &lines, 7);
        sender
    }

    fn connect(&self, path: &str, headers: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n{headers}\r\n").unwrap();
        BufReader::new(stream)
    }

    /// An answer: its head and its body.
    fn get_with(&self, path: &str, headers: &str) -> (String, String) {
        let mut answer = String::new();
        self.connect(path, headers)
            .read_to_string(&mut answer)
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.into())
    }

    fn get(&self, path: &str) -> (String, String) {
        self.get_with(path, "Host: localhost\r\n")
    }

    /// The JSON of an answer.
    #[track_caller]
    fn json(&self, path: &str) -> Value {
        let (head, body) = self.get(path);
        assert!(head.contains(" 200 ok"), "{path}: {head}\n{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the index has so many hosts, with a bug that all of them have.
    fn until_indexed(&self, hosts: u64) {
        until("the page has all", || {
            let found = self.json("/api/hosts")["total"].as_u64().unwrap();
            let bugs = self.json("/api/crashes");
            let has_all = bugs["total"] == 1 && bugs["bugs"][0]["hosts"] == hosts;
            (found == hosts && has_all).then_some(())
        });
    }
}

#[test]
fn the_page_has_hosts_crashes_and_reports() {
    let page = Page::start();
    let _senders = ["127.0.0.2", "127.0.0.3"].map(|address| page.crash(address));
    page.until_indexed(2);
    let hosts = page.json("/api/hosts?sort=name");
    assert_eq!(hosts["hosts"][0]["host"], "127.0.0.3");
    assert_eq!(hosts["hosts"][1]["host"], NAME);
    assert_eq!(hosts["states"][3], serde_json::json!(["ok", 2]));
    assert_eq!(page.json("/api/hosts?q=0.0.3")["total"], 1);
    assert_eq!(page.json("/api/hosts?state=crashed")["total"], 0);
    let bugs = page.json("/api/crashes?since=1h&q=FOO_");
    let bug = &bugs["bugs"][0];
    assert_eq!(
        (bug["count"].as_u64(), bug["hosts"].as_u64()),
        (Some(2), Some(2))
    );
    assert_eq!(page.json("/api/crashes?q=bar_foo")["total"], 0);
    let crash = page.json(&format!("/api/crash/{}", bug["last_id"]));
    // A terminal, too, could be shown this.
    assert_eq!(
        crash["before"][0]["text"],
        TEXT.replace('\u{1b}', "\\x1b").as_str()
    );
    assert_eq!(crash["lines"].as_array().unwrap().len(), 8);
    assert!(page.get("/api/crash/999").0.contains(" 404 "));
    assert!(page.get("/api/crash/%27%20OR%201").0.contains(" 404 "));
    assert!(page.get("/api/hosts?sort=;drop").0.contains(" 400 "));
    for (path, remedy) in [
        ("/api/crashes?since=garbage", "2026-11-30"),
        ("/api/hosts?state=zz", "silent"),
        ("/api/tail?level=9", "0 to 7"),
    ] {
        let (head, body) = page.get(path);
        assert!(
            head.contains(" 400 ") && body.contains(remedy),
            "{path}: {head}\n{body}"
        );
    }
    assert_eq!(page.json("/api/crashes?since=")["total"], 1);
    let points = until("there is a point", || {
        let points = page.json("/api/history")["points"].clone();
        (!points.as_array().unwrap().is_empty()).then_some(points)
    });
    assert_eq!(points[0].as_array().unwrap().len(), 4, "{points}");
}

#[test]
fn all_answers_are_strict_and_the_page_has_no_script_in_it() {
    let page = Page::start();
    for path in ["/", "/page.js", "/page.css", "/api/hosts", "/nothing"] {
        let (head, _) = page.get(path);
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        assert!(!head.contains("access-control"), "{head}");
    }
    let (_, html) = page.get("/");
    assert!(html.contains("<script src=\"page.js\" defer></script>"));
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!html.contains(" style=") && !html.contains(" onclick="));
    let (_, script) = page.get("/page.js");
    for markup in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(markup), "{markup}");
    }
}

#[test]
fn other_names_and_other_pages_are_refused() {
    let page = Page::start();
    let cross = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: ";
    for (headers, answer) in [
        ("", " 421 "),
        ("Host: evil.example\r\n", " 421 "),
        ("Host: 127.0.0.1.evil.example:80\r\n", " 421 "),
        (&format!("{cross}cors\r\n"), " 421 "),
        (&format!("{cross}navigate\r\n"), " 200 "),
        ("Host: [::1]:9667\r\n", " 200 "),
    ] {
        let (head, body) = page.get_with("/api/hosts", headers);
        assert!(head.contains(answer), "{headers}: {head}");
        assert_eq!(body.contains("\"hosts\""), answer == " 200 ", "{headers}");
    }
}

/// Reads events until one has a line with this, and returns that line.
fn until_event(events: &mut BufReader<TcpStream>, part: &str) -> Value {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "no {part}");
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let told: Value = serde_json::from_str(data).unwrap();
        let lines = told["lines"].as_array().unwrap().clone();
        let has = |line: &Value| line["text"].as_str().unwrap().contains(part);
        if let Some(line) = lines.into_iter().find(has) {
            return line;
        }
    }
}

#[test]
fn what_comes_is_shown_live_and_filtered() {
    let page = Page::start();
    let mut all = page.connect("/api/tail", "Host: localhost\r\n");
    let mut some = page.connect("/api/tail?q=TEXT%202&level=6", "Host: localhost\r\n");
    let sender = Sender::bound("127.0.0.2:0", page.ncrx.at);
    let mut seq = 0;
    // Both have to be there first.
    for tail in [&mut all, &mut some] {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            tail.read_line(&mut line).unwrap();
        }
    }
    let next = |seq: &mut u64| {
        sender.send(*seq);
        *seq += 1;
    };
    (0..4).for_each(|_| next(&mut seq));
    sender.settle(3, 3);
    let line = until_event(&mut all, "text 1");
    assert_eq!(
        (line["host"].as_str(), line["level"].as_u64()),
        (Some(NAME), Some(6))
    );
    let line = until_event(&mut some, "text");
    assert_eq!(line["text"], "text 2");
}

/// A client that reads nothing of the page delays neither the sender nor other clients.
#[test]
fn a_reader_of_the_live_view_that_is_stuck_delays_nobody() {
    let page = Page::start();
    let stuck: Vec<_> = (0..16)
        .map(|_| page.connect("/api/tail", "Host: localhost\r\n"))
        .collect();
    let too_many = || page.get("/api/tail").0;
    until("all have their seats", || {
        let mut stream = page.connect("/api/tail", "Host: localhost\r\n");
        let mut head = String::new();
        stream.read_line(&mut head).unwrap();
        head.contains(" 503 ").then_some(())
    });
    assert!(too_many().contains(" 503 "));
    let sender = Sender::bound("127.0.0.3:0", page.ncrx.at);
    let (long, session) = ("x".repeat(900), sender.session);
    let began = Instant::now();
    for seq in 0..20_000 {
        let text = format!("6,{seq},{seq},-,ncs={session:016x};{long}\n");
        sender.send_raw(&text);
        if seq % 200 == 199 {
            sender.settle(seq, seq);
        }
    }
    assert!(page.json("/api/hosts")["total"].is_u64());
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    drop(stuck);
}

#[test]
fn ten_thousand_hosts_come_by_the_page() {
    let page = Page::start();
    let mut db = rusqlite::Connection::open(page.dir.path().join("index/index.sqlite")).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let tx = db.transaction().unwrap();
    for nth in 0..10_000 {
        tx.execute(
            "INSERT INTO hosts VALUES (?1, '10.0.0.1', 1, NULL, '7.3', 1, 1, 5, 0, 0, 3, 4)",
            [format!("host{nth:05}")],
        )
        .unwrap();
    }
    tx.commit().unwrap();
    until("the page has all", || {
        (page.json("/api/hosts")["total"] == 10_000).then_some(())
    });
    let began = Instant::now();
    let (_, body) = page.get("/api/hosts?sort=name&page=99");
    assert!(body.contains("host09900") && !body.contains("host00001"));
    assert!(body.len() < 100_000, "{}", body.len());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(page.json("/api/hosts?q=host0999")["total"], 10);
}

/// In a browser hostile names and texts are seen as text, and nothing of them is run.
#[test]
fn a_browser_shows_what_is_hostile_as_text() {
    let page = Page::start();
    let _sender = page.crash("127.0.0.2");
    page.until_indexed(1);
    let bug = page.json("/api/crashes")["bugs"][0]["last_id"].clone();
    let profile = page.dir.path().join("browser");
    let dom = |part: &str| {
        let mut browser = Command::new("chromium");
        browser
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
                "--virtual-time-budget=6000",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("http://{}/#{part}", page.at));
        let output = browser.stderr(Stdio::null()).output();
        String::from_utf8(output.expect("chromium is installed").stdout).unwrap()
    };
    let hosts = dom("hosts");
    assert!(
        hosts.contains("&lt;script&gt;document.title='owned'</a>"),
        "{hosts}"
    );
    assert_eq!(hosts.matches("<script").count(), 1, "{hosts}");
    let report = dom(&format!("crashes/{bug}"));
    let text = "&lt;/pre&gt;&lt;img src=x onerror=\"document.title='owned'\"&gt;\\x1b[2J";
    assert!(report.contains(text), "{report}");
    assert!(report.contains("RIP: 0010:foo_bar"), "{report}");
    for dom in [hosts, report] {
        assert!(
            dom.contains("<title>ncrx</title>") && !dom.contains("<img"),
            "{dom}"
        );
    }
}
