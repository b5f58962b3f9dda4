// SPDX-License-Identifier: GPL-2.0

//! `userdata/`: the lines that a target adds to each record. A record that is sent again has the
//! lines that it had at first.

use std::collections::BTreeSet;

use anyhow::{ensure, Context, Result};
use nctest::env;
use nctest::logger::Logger;
use nctest_guest::Burst;

use super::{
    enable, expect, load_bare, make, make_target, path, refuse, refuse_value, remove, respond, set,
    set_all, sleep_ms, writing, EEXIST, EINVAL, EMSGSIZE, ENAMETOOLONG, ENOSPC,
};
use crate::scene::{Scene, PORT, SOON};
use crate::trial::{ours_only, trial, Trial};

/// The trials of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        trial("userdata_lines", userdata_lines),
        trial("userdata_limits", userdata_limits),
        trial("sysdata_lines", sysdata_lines),
        trial("sysdata_msgid", sysdata_msgid),
        trial("userdata_in_fragments", userdata_in_fragments),
        ours_only(trial("userdata_sent_again", userdata_sent_again)),
        trial("userdata_churn", userdata_churn),
    ]
}

/// Sets a key to a value.
fn set_key(scene: &mut Scene, target: &str, key: &str, value: &str) -> Result<()> {
    let dir = format!("{target}/userdata/{key}");
    scene.sh(&format!("mkdir -p {}", path(&dir)))?;
    set(scene, &format!("{dir}/value"), value)
}

/// Logs a line; returns the lines that come behind it.
fn behind(scene: &mut Scene, text: &str) -> Result<String> {
    scene.log(text)?;
    let seq = scene.logger.wait_for(text, SOON)?;
    behind_record(&scene.logger, seq, text)
}

/// Returns the lines that came behind the line of this record.
fn behind_record(logger: &Logger, seq: u64, text: &str) -> Result<String> {
    let collector = logger.lock();
    let record = collector.records.get(&seq).context("no such record")?;
    let body = String::from_utf8(record.bytes.clone())?;
    let (_, lines) = body
        .split_once(&format!(";{text}\n"))
        .with_context(|| format!("{text:?} is not the line of {body:?}"))?;
    Ok(lines.to_string())
}

/// Fails unless these lines come behind a record with this text.
fn expect_behind(scene: &mut Scene, text: &str, lines: &str) -> Result<()> {
    let found = behind(scene, text)?;
    ensure!(found == lines, "{text}: {found:?} instead of {lines:?}");
    Ok(())
}

/// No datagram breaks the format, and none contradicts another.
fn no_errors(logger: &Logger) -> Result<()> {
    let errors = &logger.lock().errors;
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}

/// The keys that have a value, in the order of their making.
fn userdata_lines(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    // Before it is enabled, and in an order that is not the alphabet's.
    set_key(scene, "tgt", "zebra", "striped")?;
    make(scene, "tgt/userdata/void")?;
    expect(scene, "tgt/userdata/void/value", "")?;
    set_key(scene, "tgt", "ant", "small")?;
    enable(scene, "tgt", true)?;
    expect_behind(scene, "two of three", " zebra=striped\n ant=small\n")?;
    // While it is enabled.
    set(scene, "tgt/userdata/void/value", "no more")?;
    expect(scene, "tgt/userdata/void/value", "no more")?;
    let all = " zebra=striped\n void=no more\n ant=small\n";
    expect_behind(scene, "all three", all)?;
    set(scene, "tgt/userdata/zebra/value", "")?;
    expect_behind(scene, "emptied", " void=no more\n ant=small\n")?;
    remove(scene, "tgt/userdata/void")?;
    expect_behind(scene, "removed", " ant=small\n")?;
    set_key(scene, "tgt", "void", "again")?;
    set(scene, "tgt/userdata/zebra/value", "back")?;
    let all = " zebra=back\n ant=small\n void=again\n";
    expect_behind(scene, "made anew, so the last", all)?;
    // Odd characters that a value may hold.
    let odd = "a=b; c, \"d\"\t\u{fc}";
    set(scene, "tgt/userdata/ant/value", odd)?;
    expect(scene, "tgt/userdata/ant/value", odd)?;
    let all = format!(" zebra=back\n ant={odd}\n void=again\n");
    expect_behind(scene, "odd signs", &all)?;
    // Userdata stays when the target is disabled, and other targets do not have it.
    enable(scene, "tgt", false)?;
    make_target(scene, "other", PORT + 1, &[])?;
    let other = Logger::attach(scene.wire(), PORT + 1);
    enable(scene, "other", true)?;
    enable(scene, "tgt", true)?;
    expect_behind(scene, "on again", &all)?;
    let seq = other.wait_for("on again", SOON)?;
    let found = behind_record(&other, seq, "on again")?;
    ensure!(found.is_empty(), "the other target sent {found:?}");
    // A basic target adds nothing.
    enable(scene, "other", false)?;
    set(scene, "other/extended", "0")?;
    set_key(scene, "other", "key", "value")?;
    let basic = nctest::logger::Sink::attach(scene.wire(), PORT + 1);
    enable(scene, "other", true)?;
    scene.log("in plain words")?;
    let udp = basic.wait_for("in plain words", SOON)?;
    ensure!(udp.payload.ends_with(b"in plain words\n"), "{udp:?}");
    no_errors(&scene.logger)?;
    for key in [
        "tgt/userdata/zebra",
        "tgt/userdata/ant",
        "tgt/userdata/void",
    ] {
        remove(scene, key)?;
    }
    expect_behind(scene, "nothing more", "")?;
    for dir in ["other/userdata/key", "other", "tgt"] {
        remove(scene, dir)?;
    }
    scene.unload_and_settle()
}

/// The limits: lengths, numbers, and contents.
fn userdata_limits(scene: &mut Scene) -> Result<()> {
    const KEYS: usize = 256;
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    enable(scene, "tgt", true)?;
    let longest = "k".repeat(53);
    let dir = |key: &str| format!("tgt/userdata/{key}");
    let mkdir = |key: &str| format!("mkdir {}", path(&dir(key)));
    refuse(scene, &mkdir(&"k".repeat(54)), ENAMETOOLONG)?;
    set_key(scene, "tgt", &longest, "x")?;
    refuse(scene, &mkdir(&longest), EEXIST)?;
    // A value may have 199 bytes, with or without a newline among them.
    let value = dir(&format!("{longest}/value"));
    let (fits, full) = ("v".repeat(198), "w".repeat(199));
    set(scene, &value, &fits)?;
    expect(scene, &value, &fits)?;
    refuse_value(scene, &value, &"x".repeat(199), EMSGSIZE)?;
    expect(scene, &value, &fits)?;
    scene.sh(&format!("echo -n '{full}' > {}", path(&value)))?;
    expect(scene, &value, &full)?;
    let echo = |bytes: &str| format!("echo -n -e '{bytes}' > {}", path(&value));
    refuse(scene, &echo(&"x".repeat(200)), EMSGSIZE)?;
    expect(scene, &value, &full)?;
    expect_behind(scene, "at the limit", &format!(" {longest}={full}\n"))?;
    // A line in a record must stay a line. (Upstream takes all of this.)
    if !env::upstream() {
        for bytes in [
            "a\\nb", "a\\n\\n", "\\n\\n", "a\\x01", "a\\x7fb", "a\\rb", "a\\x00b", "\\x1b[1m",
        ] {
            refuse(scene, &echo(bytes), EINVAL).with_context(|| format!("a value of {bytes:?}"))?;
            expect(scene, &value, &full)?;
        }
        expect_behind(scene, "as it was", &format!(" {longest}={full}\n"))?;
    }
    // The most keys, each with the longest value.
    let script = format!(
        "cd {}; for i in $(seq {KEYS}); do mkdir key$i && echo -n '{full}' > key$i/value || exit; done",
        path("tgt/userdata")
    );
    refuse(scene, &script, ENOSPC)?;
    let keys = scene.sh(&format!("cd {}; ls -d */ | wc -l", path("tgt/userdata")))?;
    ensure!(keys.trim() == KEYS.to_string(), "there are {keys} keys");
    let mut all = format!(" {longest}={full}\n");
    for n in 1..KEYS {
        all += &format!(" key{n}={full}\n");
    }
    let found = behind(scene, "all keys")?;
    let same = found == all;
    ensure!(same, "{} bytes instead of {}", found.len(), all.len());
    // A key that is removed makes room for another.
    remove(scene, &dir("key100"))?;
    make(scene, &dir("another"))?;
    refuse(scene, &mkdir("one_more"), ENOSPC)?;
    // Its name is not kept: the KASAN kernel would find it.
    refuse(scene, &mkdir("one_more_of_a_long_name"), ENOSPC)?;
    // Another target has keys of its own.
    make(scene, "other")?;
    set_key(scene, "other", "one_more", "x")?;
    remove(scene, "other/userdata/one_more")?;
    remove(scene, "other")?;
    no_errors(&scene.logger)?;
    scene.sh(&format!("cd {}; rmdir */", path("tgt/userdata")))?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The four switches.
const SYSDATA: [&str; 4] = ["cpu_nr", "taskname", "release", "msgid"];

/// Turns one of them on or off.
fn switch(scene: &mut Scene, name: &str, on: &str) -> Result<()> {
    set(scene, &format!("tgt/userdata/{name}_enabled"), on)
}

/// Logs a line from a process called `comm` that is pinned to a CPU; returns the lines behind it.
fn behind_pinned(scene: &mut Scene, cpu: u32, comm: &str, text: &str) -> Result<String> {
    scene.sh(&format!(
        "printf '#!/bin/sh\\necho \"%s\" > /dev/kmsg\\n' '{text}' > /tmp/{comm}
         chmod +x /tmp/{comm}
         taskset {:x} /tmp/{comm}",
        1 << cpu
    ))?;
    let seq = scene.logger.wait_for(text, SOON)?;
    behind_record(&scene.logger, seq, text)
}

/// Each line of sysdata is right: by itself, with the others, behind userdata, for each kind of
/// caller.
fn sysdata_lines(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    for name in SYSDATA {
        let file = format!("tgt/userdata/{name}_enabled");
        expect(scene, &file, "0")?;
        for value in ["", "x", "2"] {
            refuse_value(scene, &file, value, EINVAL)?;
            expect(scene, &file, "0")?;
        }
        for (written, read) in [("1", "1"), ("1", "1"), ("n", "0"), ("on", "1"), ("0", "0")] {
            set(scene, &file, written)?;
            expect(scene, &file, read)?;
        }
    }
    enable(scene, "tgt", true)?;
    let release = format!(" release={}\n", scene.vm.release);
    // One at a time, while the target is enabled.
    for (name, line) in [
        ("cpu_nr", " cpu=1\n"),
        ("taskname", " taskname=somebody\n"),
        ("release", &release),
        ("msgid", " msgid="),
    ] {
        switch(scene, name, "1")?;
        let found = behind_pinned(scene, 1, "somebody", &format!("only {name}"))?;
        let right = found.starts_with(line) && found.lines().count() == 1;
        ensure!(right, "{found:?} instead of {line:?}");
        switch(scene, name, "0")?;
        let found = behind_pinned(scene, 1, "somebody", &format!("without {name}"))?;
        ensure!(found.is_empty(), "{found:?}");
    }
    // All of them come in a fixed order, whatever the order of the switches, and behind userdata,
    // whenever that is added.
    for name in ["msgid", "release", "cpu_nr", "taskname"] {
        switch(scene, name, "1")?;
    }
    set_key(scene, "tgt", "late", "user")?;
    for (cpu, comm) in [(1, "one"), (0, "fifteen_letters"), (1, "three")] {
        let text = format!("by {comm}");
        let found = behind_pinned(scene, cpu, comm, &text)?;
        let wanted = format!(" late=user\n cpu={cpu}\n taskname={comm}\n{release} msgid=");
        let id = found
            .strip_prefix(&wanted)
            .and_then(|n| n.strip_suffix('\n'));
        let id = id.with_context(|| format!("{found:?} instead of {wanted:?}"))?;
        id.parse::<u64>().context("msgid")?;
    }
    // Records of the kernel itself have a caller, too.
    scene.sh(
        "printf '#!/bin/sh\\necho h > /proc/sysrq-trigger\\n' > /tmp/asks_for_help
         chmod +x /tmp/asks_for_help; taskset 2 /tmp/asks_for_help",
    )?;
    let seq = scene.logger.wait_for("sysrq: HELP", SOON)?;
    {
        let collector = scene.logger.lock();
        let text = String::from_utf8_lossy(&collector.records[&seq].bytes).into_owned();
        let right = text.contains("\n cpu=1\n taskname=asks_for_help\n");
        ensure!(right, "{text:?}");
    }
    remove(scene, "tgt/userdata/late")?;
    for name in SYSDATA {
        switch(scene, name, "0")?;
    }
    expect_behind(scene, "nothing more", "")?;
    no_errors(&scene.logger)?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// `msgid` counts the records of this target, one by one.
fn sysdata_msgid(scene: &mut Scene) -> Result<()> {
    const BURST: u64 = 500;
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    switch(scene, "msgid", "1")?;
    enable(scene, "tgt", true)?;
    let burst = Burst::new(BURST, scene.seed, "counted");
    scene.vm.agent.log(&burst, SOON)?;
    // A record in fragments counts as one.
    scene.sh("printf '\\001%.0s' $(seq 600) > /dev/kmsg; echo > /dev/kmsg")?;
    scene.log("the last one")?;
    scene.logger.wait_for("the last one", SOON)?;
    let collector = scene.logger.lock();
    let mut last = None;
    for seq in &collector.order {
        let text = String::from_utf8_lossy(&collector.records[seq].bytes);
        let (_, id) = text.rsplit_once("\n msgid=").context("no msgid")?;
        let id: u32 = id.trim_end().parse()?;
        if let Some(last) = last {
            ensure!(id == last + 1, "record {seq}: msgid {id} after {last}");
        }
        last = Some(id);
    }
    ensure!(collector.order.len() as u64 >= BURST + 2);
    drop(collector);
    no_errors(&scene.logger)?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// The control bytes of a long record: escaped fourfold they make three fragments, and printk
/// would cut a few more.
const LONG: usize = 490;

/// Logs a record of three fragments, and a marker behind it; returns its number.
fn log_long(scene: &mut Scene, marker: &str) -> Result<u64> {
    scene.sh(&format!(
        "echo \"$(printf '\\001%.0s' $(seq {LONG}))\" > /dev/kmsg"
    ))?;
    scene.log(marker)?;
    let after = scene.logger.wait_for(marker, SOON)?;
    let collector = scene.logger.lock();
    let long = collector.records.range(..after).next_back();
    let (seq, record) = long.context("no record before the marker")?;
    let times = record.bytes.windows(4).filter(|w| w == b"\\x01").count();
    ensure!(times == LONG, "{}", record.bytes.escape_ascii());
    Ok(*seq)
}

/// The lines come at the end of a body that was cut, and may be cut as well.
fn userdata_in_fragments(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    enable(scene, "tgt", true)?;
    for name in SYSDATA {
        switch(scene, name, "1")?;
    }
    let mut lines = String::new();
    // Other lengths have the cuts elsewhere.
    for n in 0..20 {
        let value = format!("{n}_{}", "0123456789".repeat(n % 10 + 1));
        set_key(scene, "tgt", &format!("key{n}"), &value)?;
        lines += &format!(" key{n}={value}\n");
        let seq = log_long(scene, &format!("after {n}"))?;
        let collector = scene.logger.lock();
        let record = &collector.records[&seq];
        let text = String::from_utf8(record.bytes.clone())?;
        let (_, body) = text.split_once(';').context("no body")?;
        let wanted = format!("{}\n{lines} cpu=", "\\x01".repeat(LONG));
        ensure!(
            body.starts_with(&wanted),
            "{body:?}\n  instead of\n{wanted:?}"
        );
        let rest = &body[wanted.len()..];
        let middle = format!("\n release={}\n msgid=", scene.vm.release);
        let right = rest.contains("\n taskname=") && rest.contains(&middle) && rest.ends_with('\n');
        ensure!(right, "the end is {rest:?}");
        ensure!(record.datagrams >= 3, "{} fragments", record.datagrams);
    }
    // A short text, which the lines alone make too long.
    let found = behind(scene, "short")?;
    ensure!(found.starts_with(&lines) && found.len() > 1000, "{found:?}");
    no_errors(&scene.logger)?;
    scene.sh(&format!("cd {}; rmdir */", path("tgt/userdata")))?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// A record that is sent again is the one that was sent first: the collector compares.
fn userdata_sent_again(scene: &mut Scene) -> Result<()> {
    load_bare(scene)?;
    let more = [("ack_timeout_ms", "1500"), ("emg_min_intv_ms", "50")];
    make_target(scene, "tgt", PORT, &more)?;
    enable(scene, "tgt", true)?;
    let mut numbers = Vec::new();
    for name in SYSDATA {
        switch(scene, name, "1")?;
    }
    set_key(scene, "tgt", "mood", "first")?;
    // A short record and a long one with each value.
    for mood in ["first", "second"] {
        set(scene, "tgt/userdata/mood/value", mood)?;
        let text = format!("in the {mood} mood");
        let found = behind_pinned(scene, 1, "moody", &text)?;
        let wanted = format!(" mood={mood}\n cpu=1\n taskname=moody\n");
        ensure!(found.starts_with(&wanted), "{found:?}");
        numbers.push(scene.logger.wait_for(&text, SOON)?);
        numbers.push(log_long(scene, &format!("after the {mood}"))?);
    }
    let first = numbers[0];
    // Many values that no record is ever sent with.
    let path = path("tgt/userdata/mood/value");
    scene.sh(&format!(
        "for n in $(seq 100); do echo idle $n > {path}; done"
    ))?;
    // Another value; no value; nothing at all.
    let changes: [&[(&str, &str)]; 3] = [
        &[("mood/value", "third"), ("cpu_nr_enabled", "0")],
        &[("mood/value", ""), ("msgid_enabled", "0")],
        &[("taskname_enabled", "0"), ("release_enabled", "0")],
    ];
    let mut copies = 1;
    let asked: Vec<String> = numbers.iter().map(u64::to_string).collect();
    for (n, change) in changes.into_iter().enumerate() {
        set_all(scene, "tgt/userdata", change)?;
        if n == 2 {
            remove(scene, "tgt/userdata/mood")?;
        }
        // This response acknowledges nothing, so nothing comes by itself.
        respond(scene, PORT, &format!("ncrx {}", asked.join(" ")))?;
        copies += 1;
        scene.logger.wait(SOON, "all four again", |collector| {
            let mut records = numbers.iter().map(|n| &collector.records[n]);
            records.all(|record| record.copies >= copies).then_some(())
        })?;
        no_errors(&scene.logger)?;
    }
    // The same in an emergency; the header is longer then, and the cuts elsewhere.
    respond(scene, PORT, &format!("nca{}", first - 1))?;
    scene
        .logger
        .wait(SOON, "an emergency of all four", |collector| {
            let mut records = numbers.iter().map(|n| &collector.records[n]);
            records.all(|record| record.emergencies > 0).then_some(())
        })?;
    no_errors(&scene.logger)?;
    expect_behind(scene, "what is new is without it", "")?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// Two keys are changed one after the other, over and over, while records are logged: each record
/// has the values of one moment.
fn userdata_churn(scene: &mut Scene) -> Result<()> {
    const BURSTS: u64 = 100;
    const BURST: u64 = 20;
    load_bare(scene)?;
    make_target(scene, "tgt", PORT, &[])?;
    set_key(scene, "tgt", "a", "0-0")?;
    set_key(scene, "tgt", "b", "0-0")?;
    make(scene, "tgt/userdata/still")?;
    set(scene, "tgt/userdata/still/value", "here")?;
    enable(scene, "tgt", true)?;
    // Each value holds its number twice; their lengths differ. Other keys come and go meanwhile.
    let dir = path("tgt/userdata");
    let (a, b) = (
        writing("tgt/userdata/a", "").replace("''", "$n-$fill-$n"),
        writing("tgt/userdata/b", "").replace("''", "$n-$fill-$n"),
    );
    let (a, b) = (format!("{a}/value"), format!("{b}/value"));
    scene.sh(&format!(
        "rm -f /tmp/stop /tmp/failed
         (n=0; fill=x
          while [ ! -e /tmp/stop ]; do
              n=$((n + 1)); fill=x$fill
              [ ${{#fill}} -lt 100 ] || fill=x
              {a} && {b} || touch /tmp/failed
          done) &
         (while [ ! -e /tmp/stop ]; do
              mkdir {dir}/guest && echo x > {dir}/guest/value && rmdir {dir}/guest ||
                  touch /tmp/failed
          done) &"
    ))?;
    let until = std::time::Duration::from_secs(120);
    // One long burst would be sent before many values have changed.
    for n in 0..BURSTS {
        let burst = Burst::new(BURST, scene.seed + n, &format!("churned {n}"));
        scene.vm.agent.log(&burst, until)?;
    }
    scene.sh("touch /tmp/stop; sleep 1; [ ! -e /tmp/failed ]")?;
    scene.log("the churn is over")?;
    let last = scene.logger.wait_for("the churn is over", until)?;
    let mut seen = BTreeSet::new();
    let mut churned = Vec::new();
    {
        let collector = scene.logger.lock();
        for (seq, record) in &collector.records {
            let text = String::from_utf8_lossy(&record.bytes).into_owned();
            if !text.contains(";churned ") {
                continue;
            }
            let numbers = consistent(&text).with_context(|| format!("record {seq}: {text:?}"))?;
            seen.insert(numbers);
            churned.push(*seq);
        }
    }
    let (records, values) = (churned.len(), seen.len());
    println!(
        "userdata_churn: {values} pairs in {records} records; seed {}",
        scene.seed
    );
    let all = BURSTS * BURST;
    ensure!(records as u64 == all, "{records} of {all} records");
    ensure!(values >= 10, "only {values} pairs: a poor test");
    no_errors(&scene.logger)?;
    if !env::upstream() {
        sent_again(scene, &churned, last)?;
    }
    scene.sh(&format!("cd {dir}; rmdir */"))?;
    remove(scene, "tgt")?;
    scene.unload_and_settle()
}

/// Returns the numbers that the keys `a` and `b` have in a record; fails if they cannot have been
/// set at the same time.
fn consistent(text: &str) -> Result<(u64, u64)> {
    let number = |key: &str| -> Result<u64> {
        let (_, rest) = text.split_once(&format!("\n {key}=")).context("no key")?;
        let value = rest.split('\n').next().unwrap_or_default();
        let (first, rest) = value.split_once('-').context("no number")?;
        let last = rest.rsplit('-').next().unwrap_or_default();
        ensure!(first == last, "{value:?} is of two values");
        Ok(first.parse()?)
    };
    let (a, b) = (number("a")?, number("b")?);
    ensure!(a == b || a == b + 1, "a is {a} when b is {b}");
    ensure!(
        text.contains("\n still=here\n"),
        "the other key is not there"
    );
    let lines = text.split_once('\n').map_or("", |(_, lines)| lines);
    let right = |line: &str| {
        [" a=", " b=", " still=here", " guest=x"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    ensure!(lines.lines().all(right), "lines of another kind");
    Ok((a, b))
}

/// Asks for all of these; the collector compares each with what came first.
fn sent_again(scene: &mut Scene, numbers: &[u64], last: u64) -> Result<()> {
    for chunk in numbers.chunks(100) {
        let asked: Vec<String> = chunk.iter().map(u64::to_string).collect();
        respond(scene, PORT, &format!("nca{last} {}", asked.join(" ")))?;
        // Each request asks for no more than the module sends at a time.
        let end = *chunk.last().context("an empty chunk")?;
        let wait = scene.logger.wait(SOON, "a record again", |collector| {
            (collector.records[&end].copies > 1).then_some(())
        });
        wait.with_context(|| format!("record {end}"))?;
    }
    sleep_ms(500);
    let collector = scene.logger.lock();
    let missed = numbers.iter().filter(|n| collector.records[n].copies < 2);
    let missed = missed.count();
    ensure!(missed == 0, "{missed} records did not come again");
    drop(collector);
    no_errors(&scene.logger)
}
