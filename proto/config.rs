// SPDX-License-Identifier: GPL-2.0

//! The configuration of a target, and how it is read and shown: pure, `core` only.
//!
//! Names, formats and defaults are those of upstream's configfs attributes
//! (`Documentation/networking/netconsole.rst`); others are in their style.

use core::{
    fmt,
    net::{
        IpAddr,
        Ipv4Addr,
        Ipv6Addr, //
    },
    ops::RangeInclusive,
};

use super::{
    addr::{
        self,
        DevName,
        MacAddr,
        Scope,
        MAX_NAME, //
    },
    cmdline::{
        Device,
        Target,
        DEFAULT_LOCAL_PORT,
        DEFAULT_REMOTE_PORT, //
    },
    emg_schedule::Intervals,
    peer::Policy,
    wire::Dialect,
};

/// The configuration of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The part that the `netconsole=` string can set.
    pub(crate) target: Target,
    /// The rest.
    pub(crate) settings: Settings,
}

/// The part of a target's configuration that the `netconsole=` string cannot set. Module parameters
/// set it for all targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The intervals of emergency transmission.
    pub(crate) intervals: Intervals,
    /// Datagrams a second that are sent again on request.
    pub(crate) retransmit_rate: u32,
    /// Datagrams sent again on request in one go.
    pub(crate) retransmit_burst: u32,
    /// How long records may wait for the console thread before the timer sends them, in
    /// milliseconds.
    pub(crate) push_after_ms: u64,
    /// From one keepalive to the next, in seconds; 0: none.
    pub(crate) keepalive_s: u32,
    /// How long a panic's records are sent again and again on a machine that is reset at once, in
    /// milliseconds.
    pub(crate) panic_hold_ms: u32,
    /// How often the records of a crash are sent again to a logger that does not ack.
    pub(crate) crash_repeats: u32,
    /// The dialect; [`None`]: that of the logger's responses.
    pub(crate) dialect: Option<Dialect>,
    /// Whether responses have to name our session.
    pub(crate) policy: Policy,
    /// Whether records are sent that the console log level hides. Needs `extended`.
    pub(crate) full_log: bool,
}

/// The ranges of numbers. Shorter times make no sense with timers of a millisecond; longer ones are
/// as good as never.
pub(crate) mod bounds {
    use super::RangeInclusive;

    /// Of `ack_timeout_ms`.
    pub(crate) const ACK_TIMEOUT_MS: RangeInclusive<u32> = 100..=3_600_000;
    /// Of `emg_min_intv_ms` and `emg_max_intv_ms`.
    pub(crate) const EMG_INTV_MS: RangeInclusive<u32> = 1..=60_000;
    /// Of `retransmit_rate` and `retransmit_burst`.
    pub(crate) const RETRANSMIT: RangeInclusive<u32> = 1..=1_000_000;
    /// Of `push_after_ms`.
    pub(crate) const PUSH_AFTER_MS: RangeInclusive<u32> = 100..=3_600_000;
    /// Of `keepalive_s`.
    pub(crate) const KEEPALIVE_S: RangeInclusive<u32> = 0..=86_400;
    /// Of `panic_hold_ms`.
    pub(crate) const PANIC_HOLD_MS: RangeInclusive<u32> = 0..=60_000;
    /// Milliseconds: a crash kernel that comes later would be taken for one that does not.
    pub(crate) const KDUMP_SEND_MS: RangeInclusive<u32> = 0..=10_000;
    /// Of `crash_repeats`.
    pub(crate) const CRASH_REPEATS: RangeInclusive<u32> = 0..=16;
}

impl Config {
    /// Returns the configuration of a new target: upstream's defaults.
    ///
    /// `extended` and `release` are the kernel's NETCONSOLE_EXTENDED_LOG and
    /// NETCONSOLE_PREPEND_RELEASE, as for upstream's targets.
    pub(crate) const fn new(settings: Settings, extended: bool, release: bool) -> Self {
        let target = Target {
            extended,
            release,
            local_port: DEFAULT_LOCAL_PORT,
            local_ip: None,
            device: Device::Name(DevName::ETH0),
            remote_port: DEFAULT_REMOTE_PORT,
            remote_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote_mac: None,
            local_scope: None,
            remote_scope: None,
        };
        Self { target, settings }
    }

    /// Checks that a target can be enabled with this.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let target = &self.target;
        if target.release && !target.extended {
            return Err(ConfigError::ReleaseNeedsExtended);
        }
        if target.remote_ip.is_unspecified() {
            return Err(ConfigError::NoRemoteIp);
        }
        if target.remote_port == 0 {
            return Err(ConfigError::NoRemotePort);
        }
        let other = |local: IpAddr| local.is_ipv4() != target.remote_ip.is_ipv4();
        if target.local_ip.is_some_and(other) {
            return Err(ConfigError::Families);
        }
        Ok(())
    }

    /// Returns the local address to show while the target is not enabled.
    pub(crate) fn shown_local_ip(&self) -> IpAddr {
        self.target.local_ip.unwrap_or(match self.target.remote_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        })
    }
}

/// Why no target can be enabled with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// `release` without `extended`.
    ReleaseNeedsExtended,
    /// No address to send to.
    NoRemoteIp,
    /// No port to send to.
    NoRemotePort,
    /// One address is IPv4 and the other IPv6.
    Families,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            // Upstream's words.
            Self::ReleaseNeedsExtended => "Release feature requires extended log message",
            Self::NoRemoteIp => "remote_ip is not set",
            Self::NoRemotePort => "remote_port is 0",
            Self::Families => "local_ip and remote_ip are not of the same family",
        })
    }
}

/// Returns a written text without the newline that `echo` adds.
pub(crate) fn line(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Reads a decimal number, as `kstrtouint(..., 10, ...)`.
pub(crate) fn number(text: &[u8]) -> Option<u32> {
    let digits = line(text);
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    // `from_str` would take another sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a port, as `kstrtou16(..., 10, ...)`.
pub(crate) fn port(text: &[u8]) -> Option<u16> {
    number(text)?.try_into().ok()
}

/// Reads an IPv4 or IPv6 address, and its scope if it has one: see [`addr::scoped_address`].
pub(crate) fn address(text: &[u8]) -> Option<(IpAddr, Option<Scope>)> {
    addr::scoped_address(line(text))
}

/// Reads an Ethernet address; an empty line is `Some(None)`: find the next hop.
pub(crate) fn mac(text: &[u8]) -> Option<Option<MacAddr>> {
    match line(text) {
        b"" => Some(None),
        mac => MacAddr::parse(mac).map(Some),
    }
}

/// Why a text is not a device's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadName {
    /// Longer than any device's name.
    TooLong,
    /// Not a name that a device can have.
    Invalid,
}

/// Reads the name of a device.
pub(crate) fn device(text: &[u8]) -> Result<DevName, BadName> {
    let name = line(text);
    if name.len() > MAX_NAME {
        return Err(BadName::TooLong);
    }
    DevName::new(name).ok_or(BadName::Invalid)
}

/// Reads a dialect; `auto` is `Some(None)`: the logger's.
pub(crate) fn dialect(text: &[u8]) -> Option<Option<Dialect>> {
    match line(text) {
        b"auto" => Some(None),
        b"nca" => Some(Some(Dialect::Nca)),
        b"ncrx" => Some(Some(Dialect::Ncrx)),
        _ => None,
    }
}

/// Returns the name of a dialect.
pub(crate) fn dialect_name(dialect: Option<Dialect>) -> &'static str {
    match dialect {
        None => "auto",
        Some(Dialect::Nca) => "nca",
        Some(Dialect::Ncrx) => "ncrx",
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_config)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        intervals: Intervals::DEFAULT,
        retransmit_rate: 10_000,
        retransmit_burst: 2000,
        push_after_ms: 1000,
        keepalive_s: 20,
        panic_hold_ms: 1000,
        crash_repeats: 2,
        dialect: None,
        policy: Policy::Auto,
        full_log: false,
    };

    #[test]
    fn numbers_and_ports() {
        assert!(number(b"0\n") == Some(0));
        assert!(number(b"+42") == Some(42));
        assert!(number(b"4294967295") == Some(u32::MAX));
        for bad in [
            "",
            "\n",
            "4294967296",
            "-1",
            "++1",
            "1 ",
            "0x10",
            "1\n\n",
            "ten",
        ] {
            assert!(number(bad.as_bytes()).is_none());
        }
        assert!(port(b"65535\n") == Some(65535));
        assert!(port(b"65536").is_none());
    }

    #[test]
    fn addresses() {
        assert!(address(b"10.0.2.1\n") == Some((Ipv4Addr::new(10, 0, 2, 1).into(), None)));
        assert!(address(b"::1") == Some((Ipv6Addr::LOCALHOST.into(), None)));
        let link_local = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
        let scope = |text| address(text).and_then(|(ip, scope)| scope.filter(|_| ip == link_local));
        assert!(scope(b"fe80::1%eth0\n") == Some(Scope::Name(DevName::ETH0)));
        assert!(scope(b"fe80::1%2") == Some(Scope::Index(2)));
        assert!(scope(b"fe80::1").is_none());
        for bad in [
            "",
            "10.0.2",
            "10.0.2.1.",
            "10.0.2.1 ",
            "fe80::1%",
            "fe80::1%99999999999",
            "fd00::1%eth0",
            "10.0.2.1%eth0",
            "g::",
        ] {
            assert!(address(bad.as_bytes()).is_none());
        }
        assert!(mac(b"02:00:00:00:00:01\n") == Some(Some(MacAddr([2, 0, 0, 0, 0, 1]))));
        assert!(mac(b"\n") == Some(None));
        assert!(mac(b"02:00:00:00:00").is_none());
        assert!(mac(b"02:00:00:00:00:01:").is_none());
    }

    #[test]
    fn names() {
        assert!(device(b"eth0\n") == Ok(DevName::ETH0));
        assert!(device(b"fifteen_letters\n").is_ok());
        assert!(device(b"an_altname_may_be_longer_than_others\n").is_ok());
        assert!(device(&[b'x'; MAX_NAME]).is_ok());
        assert!(device(&[b'x'; MAX_NAME + 1]) == Err(BadName::TooLong));
        assert!(device(b"\n") == Err(BadName::Invalid));
        assert!(device(b"a/b") == Err(BadName::Invalid));
        for name in ["auto", "nca", "ncrx"] {
            assert!(dialect(name.as_bytes()).is_some_and(|d| dialect_name(d) == name));
        }
        assert!(dialect(b"NCA").is_none());
    }

    #[test]
    fn config_errors() {
        let new = Config::new(SETTINGS, true, false);
        assert!(new.check() == Err(ConfigError::NoRemoteIp));
        assert!(new.shown_local_ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut config = new;
        config.target.remote_ip = Ipv6Addr::LOCALHOST.into();
        assert!(config.check().is_ok());
        assert!(config.shown_local_ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        config.target.local_ip = Some(Ipv4Addr::LOCALHOST.into());
        assert!(config.check() == Err(ConfigError::Families));
        config.target.local_ip = None;
        config.target.remote_port = 0;
        assert!(config.check() == Err(ConfigError::NoRemotePort));
        config.target.remote_port = 1;
        config.target.extended = false;
        assert!(config.check().is_ok());
        config.target.release = true;
        assert!(config.check() == Err(ConfigError::ReleaseNeedsExtended));
    }
}
