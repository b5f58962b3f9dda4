// SPDX-License-Identifier: GPL-2.0

//! Tests of the state: what is claimed, merged, and read of damaged files.

use super::*;
use serde_json::json;

fn entry(session: Option<u64>, settled: u64, heard: u64) -> Entry {
    with(session, settled, heard, json!({}))
}

/// An entry that has these keys as well.
fn with(session: Option<u64>, settled: u64, heard: u64, keys: Value) -> Entry {
    let mut entry = json!({
        "port": 6666, "host": "10.0.0.1:6665", "session": session, "settled": settled,
        "usec": settled, "last_usec": settled, "newest_usec": settled, "heard": heard,
        "holds": true,
    });
    let keys = keys.as_object().unwrap().clone();
    entry.as_object_mut().unwrap().extend(keys);
    serde_json::from_value(entry).unwrap()
}

fn claim(state: &State) -> Option<Resume> {
    let host = "10.0.0.1:6665".parse().unwrap();
    let claimed = state.claim(6666, host, None).into_iter();
    claimed.map(|(_, from)| from).next()
}

fn merged(all: &[Entry]) -> Entry {
    let mut senders = Senders::new();
    all.iter()
        .for_each(|entry| merge(&mut senders, by_sender(vec![entry.clone()])));
    let all: Vec<_> = senders.into_values().flatten().collect();
    assert_eq!(all.len(), 1);
    all[0].clone()
}

#[test]
fn streams_of_one_sender_are_told_apart() {
    let (one, two) = (entry(Some(1), 9, 200), entry(Some(2), 5, 190));
    let plain = entry(None, 70, 150);
    // The state of another run, from before that.
    let former = [entry(Some(2), 7, 100), entry(Some(3), 99, 100)];
    let files = [vec![one.clone(), two, plain.clone()], former.into()];
    for order in [[0, 1], [1, 0]] {
        let mut senders = Senders::new();
        order.map(|n: usize| merge(&mut senders, by_sender(files[n].clone())));
        let mut all: Vec<_> = senders.into_values().flatten().collect();
        all.sort_by_key(|entry| entry.from.session().map(|session| session.0));
        assert_eq!(all, [plain.clone(), one.clone(), entry(Some(2), 7, 190)]);
    }
}

#[test]
fn furthest_of_a_session() {
    let (far, late) = (entry(Some(1), 9, 100), entry(Some(1), 5, 200));
    for all in [[far.clone(), late.clone()], [late, far]] {
        assert_eq!(merged(&all), entry(Some(1), 9, 200));
    }
}

#[test]
fn latest_of_two_sessions() {
    for session in [None, Some(2)] {
        let (old, new) = (entry(session.map(|_| 1), 9, 100), entry(session, 5, 200));
        for all in [[old.clone(), new.clone()], [new.clone(), old]] {
            assert_eq!(merged(&all), new);
        }
    }
}

#[test]
fn what_has_gone_back_in_a_session_may_have_got_further() {
    let late = with(Some(1), 5, 200, json!({"beyond": [[8, 12]]}));
    let far = entry(Some(1), 9, 100);
    for all in [[far.clone(), late.clone()], [late.clone(), far]] {
        assert_eq!(merged(&all), late);
    }
}

#[test]
fn a_file_in_disorder_is_put_aside() {
    let now = unix(SystemTime::now());
    let good = json!({"beyond": [[11, 12], [14, 14]], "passed": [[1, 2, null], [4, 9, 7]]});
    let good = with(Some(1), 9, now, good);
    let bad = [
        json!({"beyond": [[12, 11]]}),
        json!({"beyond": [[11, 14], [14, 15]]}),
        json!({"beyond": [[9, 12]]}),
        json!({"passed": [[4, 9, null], [1, 2, null]]}),
        json!({"passed": [[1, 10, null]]}),
    ];
    let bad = bad.map(|keys| with(Some(1), 9, now, keys));
    for (entry, sound) in bad.into_iter().map(|bad| (bad, 0)).chain([(good, 1)]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker-0.json");
        replace(&path, false, 0, &[entry.clone()]).unwrap();
        let state = State::open(directory.path(), false).unwrap();
        assert_eq!(claim(&state).iter().count(), sound, "{entry:?}");
        assert_eq!(path.with_extension("bad").exists(), sound == 0, "{entry:?}");
    }
}

#[test]
fn what_was_asked_for_is_soon_forgotten() {
    let now = unix(SystemTime::now());
    for (heard, known) in [(now, true), (now - 60, false)] {
        let directory = tempfile::tempdir().unwrap();
        let entry = with(None, 9, heard, json!({"asked": [3, 4]}));
        replace(&directory.path().join("worker-0.json"), false, 0, &[entry]).unwrap();
        let state = State::open(directory.path(), false).unwrap();
        let from = claim(&state).unwrap();
        let from = serde_json::to_value(from).unwrap();
        assert_eq!(from.get("asked").is_some(), known);
    }
}
#[test]
fn a_sender_is_claimed_once_and_found_by_its_session() {
    let directory = tempfile::tempdir().unwrap();
    let now = unix(SystemTime::now());
    let entries = [entry(Some(7), 9, now)];
    replace(&directory.path().join(MERGED), false, now, &entries).unwrap();
    let state = State::open(directory.path(), false).unwrap();
    let other = "10.9.9.9:1".parse().unwrap();
    assert!(state.claim(6667, entries[0].host, None).is_empty());
    assert!(state.claim(6666, other, Some(8)).is_empty());
    let claimed = state.claim(6666, other, Some(7));
    let (host, from) = &claimed[0];
    assert_eq!((*host, from.reach().1), (entries[0].host, Some(9)));
    assert!(claim(&state).is_none() && !state.has_unclaimed());
}

#[test]
fn only_files_of_ours_are_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let foreign = [
        "127.0.0.3.json",
        "package.json",
        "worker-x.json",
        "worker-01.json",
        "worker-+1.json",
        "worker-7.json",
        "worker-0.bad",
    ];
    let content = |name: &str| format!("{{\"name\":\"{name}\"}}\n");
    for name in foreign {
        std::fs::write(path(name), content(name)).unwrap();
    }
    for _ in 0..2 {
        std::fs::write(path("worker-0.json"), "{\"version\":1,\"sav").unwrap();
        drop(State::open(directory.path(), false).unwrap());
    }
    for name in foreign {
        assert_eq!(std::fs::read_to_string(path(name)).unwrap(), content(name));
    }
    for name in ["worker-0.bad.1", "worker-0.bad.2"] {
        let text = std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(text, "{\"version\":1,\"sav");
    }
    // A file that would be overwritten is refused.
    let state = State::open(directory.path(), false).unwrap();
    assert!(state.file(0, 6666, Instant::now()).is_ok());
    let error = state.file(7, 6666, Instant::now()).err().unwrap();
    assert!(error.to_string().contains("worker-7.json"), "{error}");
    drop(state);
    std::fs::write(path(MERGED), "[1]").unwrap();
    let error = State::open(directory.path(), false).err().unwrap();
    assert!(error.to_string().contains(MERGED), "{error}");
    assert!(State::check(directory.path(), 1).is_err());
    assert_eq!(std::fs::read_to_string(path(MERGED)).unwrap(), "[1]");
}

#[test]
fn what_can_be_read_of_a_damaged_file_is_used() {
    let now = unix(SystemTime::now());
    let entries: Vec<_> = (1..=3)
        .map(|n| Entry {
            host: ([10, 0, 0, n], 6665).into(),
            ..entry(Some(n.into()), 9, now)
        })
        .collect();
    let whole = tempfile::tempdir().unwrap();
    let whole = whole.path().join("worker-0.json");
    replace(&whole, false, now, &entries).unwrap();
    let text = std::fs::read_to_string(&whole).unwrap();
    let second = text.match_indices("{\"port\"").nth(1).unwrap().0;
    let third = text.match_indices("{\"port\"").nth(2).unwrap().0;
    let undamaged = text.clone();
    for (text, known) in [
        (text.clone(), &[1, 2, 3][..]),
        (text[..text.len() - 3].into(), &[1, 2, 3]),
        (text[..third + 30].into(), &[1, 2]),
        (text.replacen("\"port\"", "\"p\u{0}rt\"", 1), &[2, 3]),
        (
            format!("{}{}", &text[..second + 9], &text[third..]),
            &[1, 3],
        ),
        (text[..40].into(), &[]),
        ("\0".repeat(100), &[]),
        ("torn".into(), &[]),
        (String::new(), &[]),
        (text.replacen("\"version\":1", "\"version\":2", 1), &[]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("worker-0.json"), &text).unwrap();
        let state = State::open(directory.path(), false).unwrap();
        let claims = |n: &u8| {
            let host = ([10, 0, 0, *n], 6665).into();
            !state.claim(6666, host, None).is_empty()
        };
        let claimed: Vec<_> = [1, 2, 3].into_iter().filter(claims).collect();
        assert_eq!(claimed, known, "{text:?}");
        let aside = directory.path().join("worker-0.bad");
        assert_eq!(aside.exists(), text != undamaged, "{text:?}");
    }
}
