// SPDX-License-Identifier: GPL-2.0

use std::time::Instant;

use ncrx::crash::{Line, Recognizer};

use super::*;

/// A crash in this function, of this host, at this time.
fn crash(host: &str, function: &str, time: u64, seq: u64) -> Message {
    let mut recognizer = Recognizer::default();
    let mut found = Vec::new();
    for (nth, text) in [
        "before it".to_owned(),
        "BUG: kernel NULL pointer dereference, address: 0000000000000008".to_owned(),
        "CPU: 1 PID: 7 Comm: x Not tainted 7.3.4 #1".to_owned(),
        format!("RIP: 0010:{function}+0x1/0x20"),
        "---[ end trace 0000000000000000 ]---".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let line = Line {
            seq: Some(seq + nth as u64),
            text: text.as_bytes(),
            ..Line::default()
        };
        recognizer.push(&line, &mut found);
    }
    recognizer.finish(&mut found);
    Message::Crash(Arc::new(Crash {
        host: host.into(),
        address: ([10, 0, 0, 1], 6665).into(),
        session: Some(Session(1)),
        time,
        report: found.remove(0),
    }))
}

#[test]
fn crashes_of_one_bug_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path()).unwrap();
    let hostile = "x'); DROP TABLE crashes; --\u{1b}[31m";
    writer
        .write(&[
            crash("a", "foo", 1000, 1),
            crash("b", "foo", 3000, 1),
            crash("b", "bar", 2000, 9),
            crash(hostile, "bar", 2500, 1),
            // It comes again.
            crash("a", "foo", 1000, 1),
        ])
        .unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let lines = |filter: Filter| -> Vec<_> {
        let found = reader.crashes(&filter).unwrap().into_iter();
        let line = |f: Found| {
            (
                f.title.rsplit(' ').next().unwrap().to_owned(),
                f.count,
                f.hosts,
            )
        };
        found.map(line).collect()
    };
    let of = |name: &str, count, hosts| (name.to_owned(), count, hosts);
    assert_eq!(lines(Filter::default()), [of("foo", 2, 2), of("bar", 2, 2)]);
    let host = |host: &str| Filter {
        host: Some(host.into()),
        ..Filter::default()
    };
    assert_eq!(lines(host("a")), [of("foo", 1, 1)]);
    assert_eq!(lines(host(hostile)), [of("bar", 1, 1)]);
    let (since, until) = (Some(2000), Some(2500));
    let filter = Filter {
        since,
        until,
        ..Filter::default()
    };
    assert_eq!(lines(filter), [of("bar", 2, 2)]);
    for (release, count) in [("7.3", 2), ("7.3.4", 2), ("6", 0), ("*", 0), ("7.?", 0)] {
        let release = Some(release.into());
        let filter = Filter {
            release,
            ..Filter::default()
        };
        assert_eq!(lines(filter).len(), count);
    }
    let found = reader.crashes(&host("a")).unwrap();
    let row = reader.crash(&found[0].id.to_string()).unwrap().unwrap();
    assert_eq!(row.before[0].text, "before it");
    assert_eq!(row.lines.len(), 4);
    assert_eq!(row.release.as_deref(), Some("7.3.4"));
    let last = reader.crash(&found[0].signature[..8]).unwrap().unwrap();
    assert_eq!(last.host, "b");
    assert!(reader.crash("99").unwrap().is_none() && reader.crash("' OR 1").unwrap().is_none());
}

#[test]
fn hosts_and_their_boots() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path()).unwrap();
    let began = |session, at| Message::Began {
        host: "a".into(),
        session: Some(Session(session)),
        at,
        first: Some(0),
    };
    let row = |heard, release: Option<&str>| {
        Message::Hosts(vec![HostRow {
            name: "a".into(),
            address: "::1".into(),
            port: 6665,
            heard,
            release: release.map(Into::into),
            acked: Some(7),
            ..HostRow::default()
        }])
    };
    writer
        .write(&[
            began(1, 10),
            began(2, 20),
            began(2, 30),
            row(40, Some("7.3.4")),
            row(50, None),
        ])
        .unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let host = reader.hosts().unwrap().remove(0);
    assert_eq!((host.boots, host.booted, host.heard), (2, Some(20), 50));
    assert_eq!(host.release.as_deref(), Some("7.3.4"));
    assert_eq!((host.address.as_str(), host.acked), ("[::1]:6665", Some(7)));
}

/// A sender that is called by a key of its records has no name before the first of them.
#[test]
fn a_host_whose_name_comes_later_is_one_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path()).unwrap();
    let row = |name: &str, port, record| HostRow {
        name: name.into(),
        address: "10.0.0.1".into(),
        port,
        record,
        ..HostRow::default()
    };
    for rows in [
        vec![row("10.0.0.1", 1, Some(5)), row("10.0.0.1:2", 2, None)],
        vec![row("10.0.0.1:3", 3, None)],
        vec![row("web1", 1, Some(6)), row("web2", 2, Some(6))],
        vec![row("web2", 2, Some(7))],
    ] {
        writer.write(&[Message::Hosts(rows)]).unwrap();
    }
    let hosts = Reader::open(dir.path()).unwrap().hosts().unwrap();
    let mut names: Vec<_> = hosts.into_iter().map(|host| host.name).collect();
    names.sort();
    assert_eq!(names, ["10.0.0.1", "10.0.0.1:3", "web1", "web2"]);
}

#[test]
fn what_is_no_index_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Reader::open(dir.path()).is_err());
    std::fs::write(
        file(dir.path()),
        "no database, however long this text may be",
    )
    .unwrap();
    Writer::open(dir.path()).unwrap();
    let bad = dir.path().join("index.sqlite.bad");
    assert!(std::fs::read_to_string(&bad)
        .unwrap()
        .starts_with("no database"));
    // Nor is one of another version written into, or the first one overwritten.
    let db = Connection::open(file(dir.path())).unwrap();
    db.pragma_update(None, "user_version", VERSION + 1).unwrap();
    drop(db);
    Writer::open(dir.path()).unwrap();
    assert!(std::fs::read_to_string(&bad)
        .unwrap()
        .starts_with("no database"));
    assert!(dir.path().join("index.sqlite.bad.1").exists());
}

#[test]
fn hosts_are_bounded_without_a_crash_and_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO hosts SELECT 'host' || i, '10.0.0.1', 1, NULL, NULL, i, NULL, 0, 0, 0, NULL,
         NULL FROM n",
        HOSTS + 10
    );
    let writer = Writer::open(dir.path()).unwrap();
    writer.db.execute_batch(&insert).unwrap();
    drop(writer);
    let mut writer = Writer::open(dir.path()).unwrap();
    let count = |writer: &Writer| -> i64 {
        let count = "SELECT COUNT(*) FROM hosts";
        writer.db.query_row(count, [], |row| row.get(0)).unwrap()
    };
    writer.write(&[]).unwrap();
    assert_eq!(count(&writer), HOSTS);
    let row = |nth: usize| HostRow {
        name: format!("new{nth}"),
        heard: 1 << 40,
        ..HostRow::default()
    };
    let rows: Vec<_> = (0..TRIM).map(row).collect();
    writer.write(&[Message::Hosts(rows.clone())]).unwrap();
    assert_eq!(count(&writer), HOSTS);
    // Those are known by now.
    writer.write(&[Message::Hosts(rows)]).unwrap();
    assert_eq!(writer.new, 0);
}

#[test]
fn what_cannot_be_read_to_its_end_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path()).unwrap();
    writer.write(&[crash("a", "foo", 1000, 1)]).unwrap();
    let failed = writer.replace(|write| {
        write(&[crash("b", "bar", 2000, 1)])?;
        Err::<(), _>(anyhow::anyhow!("a disk failed"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "a disk failed");
    let reader = Reader::open(dir.path()).unwrap();
    let hosts = |reader: &Reader| -> Vec<_> {
        let found = reader.crashes(&Filter::default()).unwrap().into_iter();
        found.map(|found| (found.title, found.count)).collect()
    };
    assert!(hosts(&reader)[0].0.contains("foo"));
    writer
        .replace(|write| Ok(write(&[crash("b", "bar", 2000, 1)])?))
        .unwrap();
    assert_eq!(hosts(&reader).len(), 1);
    assert!(hosts(&reader)[0].0.contains("bar"));
}

#[test]
fn an_index_is_one_receivers() {
    let dir = tempfile::tempdir().unwrap();
    let first = Index::open(dir.path(), vec![("/a".into(), "text")]).unwrap();
    let second = Index::open(dir.path(), vec![("/b".into(), "json")]);
    let error = second.err().unwrap().to_string();
    assert!(error.contains("another ncrx") && error.contains("its own directory"));
    // The first one's records are as they were.
    let reader = Reader::open(dir.path()).unwrap();
    assert_eq!(reader.outputs().unwrap(), [("/a".into(), "text".into())]);
    drop(first);
    Index::open(dir.path(), Vec::new()).unwrap();
}

#[test]
fn a_queue_that_is_full_blocks_nobody() {
    let (to, messages) = mpsc::sync_channel(2);
    let missed = Arc::new(AtomicU64::new(0));
    let index = Index {
        to,
        missed,
        _lock: None,
    };
    let began = Instant::now();
    (0..5).for_each(|nth| index.tell(crash("a", "foo", 1, nth)));
    index.finish();
    assert_eq!(index.missed(), 3);
    assert!(began.elapsed() < LAST);
    drop(messages);
}

#[test]
fn a_hundred_thousand_crashes_are_quickly_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path()).unwrap();
    // Written as rows: to make the reports is slow.
    writer
        .db
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             INSERT INTO crashes (host, address, seq, time, signature, kind, title, release,
             missing, complete, fatal)
             SELECT 'host' || (i % 5000), '10.0.0.1', i, i, printf('%016x', i % 300), 'oops',
             'BUG: unable to handle page fault in function_' || (i % 300), '7.3.4', 0, 1, 1 FROM n",
        )
        .unwrap();
    writer.write(&[]).unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    let began = Instant::now();
    let found = reader.crashes(&Filter::default()).unwrap();
    let took = began.elapsed();
    println!("{took:?}");
    assert_eq!(found.len(), 300);
    assert_eq!(found.iter().map(|f| f.count).sum::<u64>(), 100_000);
    // On a machine that is busy, too.
    assert!(took < Duration::from_secs(1), "{took:?}");
}
