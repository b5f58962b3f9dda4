// SPDX-License-Identifier: GPL-2.0

//! Records about our own responses: pure, `core` only.
//!
//! A firewall that logs what comes in makes a record of each response. The record is sent, the
//! logger acks it, and the firewall logs that, for ever: with a logger that answers each datagram
//! hundreds of times a second. Such records are known by their text, which the kernel writes
//! (`nf_log_syslog`, `ebt_log`): nothing else tells them from others if the firewall drops the
//! response as well.
//!
//! The rule: the first is sent at once. Then they wait until another record is sent, which takes
//! them along since records are sent in their order, or one is sent after a time that doubles each
//! time: see [`Hold`].
//!
//! It converges: the `n`th that is sent by itself has waited at least 2^(n-2) seconds, so in a time
//! `t` at most `2 + log2(t)` are, `t` in seconds, however fast the logger answers and however many
//! wait. Another record takes along no more than the records before it have been answered with: one
//! or two with a receiver that acks several at once, as many as were ever sent at once
//! if the logger answers each datagram.

use core::net::IpAddr;

use super::wire::find;

/// The time for which the second waits, in milliseconds: longer than a receiver delays its acks.
const FIRST_MS: u64 = 1000;

/// The time without any transmission, beside twice the last wait, after which a record about a
/// response has not been caused by one, in milliseconds.
const QUIET_MS: u64 = 60_000;

/// The least bytes of a record about a packet; `nf_log_syslog`'s, with its fifteen fields, has 105
/// and more.
const MIN_RECORD: usize = 96;

/// The last bytes of such a record, which have the port: what may follow is its length, a user, a
/// group and a mark (` LEN=65535 UID=4294967295 GID=4294967295 MARK=0xffffffff \n`).
const TAIL: usize = 96;

/// The ends of a UDP packet that the firewall has logged, as far as they tell whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// The address that it came from.
    pub(crate) source: IpAddr,
    /// The port that it came from.
    pub(crate) source_port: u16,
    /// The port that it was sent to.
    pub(crate) port: u16,
}

impl Packet {
    /// Returns the packet that a record is about: `SRC=10.0.0.2 [..] SPT=6666 DPT=6665`.
    pub(crate) fn of(record: &[u8]) -> Option<Self> {
        // Each record is asked, so most are to be told by a few bytes.
        if record.len() < MIN_RECORD {
            return None;
        }
        value(&record[record.len().saturating_sub(TAIL)..], b" DPT=")?;
        let (source, rest) = value(record, b"SRC=")?;
        let (source_port, rest) = value(rest, b" SPT=")?;
        let (port, _) = value(rest, b" DPT=")?;
        Some(Self {
            source: parse(source)?,
            source_port: parse(source_port)?,
            port: parse(port)?,
        })
    }
}

/// Returns the word behind the first `key`, which ends with `=`, and what follows it.
fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut end = 0;
    while !text[..end].ends_with(key) {
        end += find(&text[end..], b'=')? + 1;
    }
    let text = &text[end..];
    let end = text
        .iter()
        .position(|&byte| matches!(byte, b' ' | b',' | b'\n'));
    Some(text.split_at(end.unwrap_or(text.len())))
}

fn parse<T: core::str::FromStr>(word: &[u8]) -> Option<T> {
    core::str::from_utf8(word).ok()?.parse().ok()
}

/// The wait of records about responses, of one target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hold {
    /// How long the next one waits, in milliseconds.
    ms: u64,
    /// The time until which one waits.
    until: Option<u64>,
}

impl Hold {
    /// Takes note of such a record, logged at `now` when nothing had been sent for `idle`
    /// milliseconds. Returns whether it waits.
    pub(crate) fn log(&mut self, now: u64, idle: u64) -> bool {
        if self.until.is_some() {
            return true;
        }
        if idle > self.ms.saturating_mul(2).saturating_add(QUIET_MS) {
            self.ms = 0;
        }
        let waits = self.ms > 0;
        self.until = waits.then(|| now.saturating_add(self.ms));
        self.ms = self.ms.saturating_mul(2).max(FIRST_MS);
        waits
    }

    /// Ends the wait: another record has been logged.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    /// Returns whether those that wait have to. When the time is over it returns `false` once, for
    /// one of them; the others wait for twice as long.
    pub(crate) fn holds(&mut self, now: u64) -> bool {
        match self.until {
            None => false,
            Some(until) if now < until => true,
            Some(_) => {
                self.until = Some(now.saturating_add(self.ms));
                self.ms = self.ms.saturating_mul(2);
                false
            }
        }
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_echo)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    #[test]
    fn records_about_packets() {
        let v4 = |text: &str| Packet::of(text.as_bytes()).map(|p| (p.source_port, p.port));
        for (record, ports) in [
            // nft's and iptables' `log`
            (
                "4,9,1,-;ackd IN=eth0 OUT= MAC=02:00:00:00:00:01 SRC=10.0.2.1 DST=10.0.2.15 LEN=36 \
                 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=6666 DPT=6665 LEN=16 \n",
                Some((6666, 6665)),
            ),
            // ebtables' `--log --log-ip`
            (
                "4,9,1,-;IN=eth0 OUT= proto = 0x0800 IP SRC=10.0.2.1 IP DST=10.0.2.15, IP tos=0x00, \
                 IP proto=17 SPT=6666 DPT=6665\n",
                Some((6666, 6665)),
            ),
            ("4,9,1,-;SRC=10.0.2.1 DST=10.0.2.15 PROTO=ICMP\n", None),
            ("4,9,1,-;SRC=10.0.2 SPT=6666 DPT=6665\n", None),
            ("4,9,1,-;SRC=10.0.2.1 SPT=66666 DPT=6665\n", None),
            ("4,9,1,-;SRC=10.0.2.1 SPT= DPT=\n", None),
            ("SRC=", None),
            ("", None),
        ] {
            assert_eq!(v4(record), ports);
        }
        let v6 =
            b"4,9,1,-;IN=eth0 SRC=fd00:0000:0000:0000:0000:0000:0000:0001 DST=fd00:: PROTO=UDP \
            SPT=1 DPT=2 LEN=3";
        let source = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Packet::of(v6).map(|packet| packet.source), Some(source));
    }

    /// Every transmission makes such a record at once. Returns how many are sent in `ms`, with
    /// another record every `other` milliseconds.
    fn sent_in(ms: u64, other: u64) -> u64 {
        let (mut hold, mut sent, mut waiting) = (Hold::default(), 0, 0);
        for now in 0..ms {
            let mut sending = 0;
            if now.checked_rem(other) == Some(0) {
                hold.end();
                sending = core::mem::take(&mut waiting) + 1;
            } else if waiting > 0 && !hold.holds(now) {
                (waiting, sending) = (waiting - 1, 1);
            }
            while sending > 0 {
                (sent, sending) = (sent + 1, sending - 1);
                match hold.log(now, 0) {
                    true => waiting += 1,
                    false => sending += 1,
                }
            }
        }
        sent
    }

    #[test]
    fn it_dies_out() {
        assert_eq!(sent_in(1, u64::MAX), 2);
        assert_eq!(sent_in(10_000, u64::MAX), 2 + 3);
        assert_eq!(sent_in(100_000, u64::MAX), 2 + 6);
        assert!(sent_in(10_000, 100) < 6000);
    }

    #[test]
    fn what_no_transmission_has_caused_is_sent_at_once() {
        let hold = &mut Hold::default();
        assert!(!hold.log(0, 0) && !hold.holds(5));
        assert!(hold.log(10, 10) && hold.log(20, 20) && hold.holds(1009));
        assert!(!hold.holds(1010) && hold.holds(1010) && hold.holds(3009) && !hold.holds(3010));
        hold.end();
        assert!(!hold.holds(3020));
        assert!(!hold.log(200_000, 100_000));
        assert!(hold.log(200_001, 1));
    }
}
