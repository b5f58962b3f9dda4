// SPDX-License-Identifier: GPL-2.0

//! Targets as directories: `/sys/kernel/config/netconsole_ext/<target>/`.
//!
//! ```text
//! netconsole_ext/
//!     <target>/               mkdir creates it, or adopts cmdline0 ... of the module's parameter
//!         enabled ...         upstream's attributes, and ours
//!         userdata/
//!             cpu_nr_enabled ...
//!             <key>/
//!                 value
//!         stats/
//!             state ...
//! ```
//!
//! Names, formats and errors are upstream's (`drivers/net/netconsole.c`), with two differences:
//! changing an attribute of an enabled target is `EBUSY`, and impossible devices, keys and values
//! are `EINVAL`. mkdir and rmdir hold the lock of the subsystem, which is taken outside of those of
//! `control.rs`.

use core::fmt::{
    self,
    Display, //
};

use kernel::{
    configfs::{
        configfs_attrs,
        AttributeOperations,
        Group,
        GroupOperations, //
    },
    page::PAGE_SIZE,
    prelude::*,
    str::{
        kstrtobool_bytes,
        BStr,
        CString, //
    },
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use crate::{
    control::Control,
    proto::{
        cmdline::{
            DevName,
            Device,
            MacAddr, //
        },
        config::{
            self,
            bounds,
            BadName,
            Config, //
        },
        extradata::{
            self,
            BadValue,
            Sysdata,
            MAX_KEY, //
        },
        peer::Policy, //
    },
    sys::{
        configfs::{
            add_default_group,
            complete_attributes,
            emit,
            name_of,
            remove_default_groups,
            Subsystem, //
        },
        netdev::Rtnl, //
    },
    target::{
        extradata::{
            add_key,
            remove_key,
            set_fields,
            set_value, //
        },
        Target, //
    }, //
};

type Page = [u8; PAGE_SIZE];

/// The directory of all targets.
pub(crate) struct Root(Arc<Control>);

/// The directory of a target.
pub(crate) struct TargetDir {
    control: Arc<Control>,
    target: Arc<Target>,
}

/// A target's `userdata/`.
struct UserdataDir(Arc<Target>);

/// A directory in `userdata/`.
struct KeyDir {
    target: Arc<Target>,
    key: CString,
}

/// A target's `stats/`.
struct StatsDir(Arc<Target>);

/// Registers the directory. Process context.
///
/// `EEXIST`: the name is taken.
pub(crate) fn register(
    control: Arc<Control>,
    module: &'static ThisModule,
) -> Result<Pin<KBox<Subsystem<Root>>>> {
    Subsystem::new(c"netconsole_ext", module, Root(control))
}

/// Implements an attribute by a function that shows its value and, unless it is read-only, one that
/// takes what is written.
macro_rules! attribute {
    ($dir:ty, $id:literal, $show:expr) => {
        #[vtable]
        impl AttributeOperations<$id> for $dir {
            type Data = $dir;

            fn show(dir: &$dir, page: &mut Page) -> Result<usize> {
                let show: fn(&$dir) -> _ = $show;
                emit(page, format_args!("{}\n", show(dir)))
            }
        }
    };
    ($dir:ty, $id:literal, $show:expr, $store:expr) => {
        #[vtable]
        impl AttributeOperations<$id> for $dir {
            type Data = $dir;

            fn show(dir: &$dir, page: &mut Page) -> Result<usize> {
                let show: fn(&$dir) -> _ = $show;
                emit(page, format_args!("{}\n", show(dir)))
            }

            fn store(dir: &$dir, text: &[u8]) -> Result {
                let store: fn(&$dir, &[u8]) -> Result = $store;
                store(dir, text)
            }
        }
    };
}

#[vtable]
impl GroupOperations for Root {
    type Child = TargetDir;

    fn make_group(&self, name: &CStr) -> Result<impl PinInit<Group<TargetDir>, Error>> {
        let control = &self.0;
        let target = match control.targets().find(name) {
            // No other directory has this name, so the target has not been adopted yet.
            Some(target) => target,
            None => {
                let config = Config::new(
                    control.shared().settings,
                    cfg!(CONFIG_NETCONSOLE_EXTENDED_LOG),
                    cfg!(CONFIG_NETCONSOLE_PREPEND_RELEASE),
                );
                control.add(CString::try_from(name)?, config)?
            }
        };
        target_dir(name, control.clone(), target)
    }

    fn drop_item(&self, dir: ArcBorrow<'_, Group<TargetDir>>) {
        remove_default_groups(&dir);
        if let Some(target) = name_of(&dir).and_then(|name| self.0.targets().find(name)) {
            self.0.remove(&target);
        }
    }
}

/// Creates the directory of a target, with `userdata/` and `stats/`.
fn target_dir(
    name: &CStr,
    control: Arc<Control>,
    target: Arc<Target>,
) -> Result<impl PinInit<Group<TargetDir>, Error>> {
    let target_type = configfs_attrs! {
        container: Group<TargetDir>,
        data: TargetDir,
        attributes: [
            enabled: 0,
            extended: 1,
            release: 2,
            dev_name: 3,
            local_port: 4,
            remote_port: 5,
            local_ip: 6,
            remote_ip: 7,
            local_mac: 8,
            remote_mac: 9,
            transmit_errors: 10,
            dialect: 11,
            session: 12,
            full_log: 13,
            ack_timeout_ms: 14,
            emg_min_intv_ms: 15,
            emg_max_intv_ms: 16,
            retransmit_rate: 17,
            keepalive_s: 18,
            panic_hold_ms: 19,
            crash_repeats: 20,
        ],
    };
    let userdata_type = configfs_attrs! {
        container: Group<UserdataDir>,
        data: UserdataDir,
        child: KeyDir,
        attributes: [
            cpu_nr_enabled: 0,
            taskname_enabled: 1,
            release_enabled: 2,
            msgid_enabled: 3,
        ],
    };
    let stats_type = configfs_attrs! {
        container: Group<StatsDir>,
        data: StatsDir,
        attributes: [
            state: 0,
            acked_seq: 1,
            sent_seq: 2,
            unacked: 3,
            oldest_unacked_ms: 4,
            records: 5,
            datagrams: 6,
            retransmitted: 7,
            emergency: 8,
            emergency_rounds: 9,
            responses: 10,
            bad_responses: 11,
            lost: 12,
            dropped: 13,
        ],
    };
    let userdata = UserdataDir(target.clone());
    let userdata = Group::new(c"userdata".try_into()?, userdata_type, Ok(userdata));
    let userdata = Arc::pin_init(userdata, GFP_KERNEL)?;
    let stats = StatsDir(target.clone());
    let stats = Group::new(c"stats".try_into()?, stats_type, Ok(stats));
    let stats = Arc::pin_init(stats, GFP_KERNEL)?;
    let dir = TargetDir { control, target };
    let dir = Group::new(name.try_into()?, target_type, Ok(dir));
    Ok(dir.pin_chain(move |mut dir| {
        name_of(&dir).ok_or(ENOMEM)?;
        complete_attributes(&dir);
        complete_attributes(&userdata);
        complete_attributes(&stats);
        add_default_group(dir.as_mut(), userdata);
        add_default_group(dir, stats);
        Ok(())
    }))
}

#[vtable]
impl GroupOperations for UserdataDir {
    type Child = KeyDir;

    fn make_group(&self, name: &CStr) -> Result<impl PinInit<Group<KeyDir>, Error>> {
        let key_type = configfs_attrs! {
            container: Group<KeyDir>,
            data: KeyDir,
            attributes: [
                value: 0,
            ],
        };
        if name.to_bytes().len() > MAX_KEY {
            return Err(ENAMETOOLONG);
        }
        // The line could be mistaken for another one, or for the end of the key.
        if !extradata::is_key(name.to_bytes()) {
            return Err(EINVAL);
        }
        let dir = KeyDir {
            target: self.0.clone(),
            key: name.try_into()?,
        };
        let group = Group::new(name.try_into()?, key_type, Ok(dir));
        let target = self.0.clone();
        Ok(group.pin_chain(move |key| {
            let name = name_of(&key).ok_or(ENOMEM)?;
            complete_attributes(&key);
            add_key(&target, name)
        }))
    }

    fn drop_item(&self, key: ArcBorrow<'_, Group<KeyDir>>) {
        // Without memory the line goes with the next change.
        let _ = name_of(&key).map(|name| remove_key(&self.0, name));
    }
}

impl TargetDir {
    /// Changes the configuration, unless the target is enabled.
    fn configure(&self, change: impl FnOnce(&mut Config) -> Result) -> Result {
        self.control.configure(&self.target, change)
    }

    /// As [`Self::configure`], for a switch.
    fn switch(&self, text: &[u8], place: fn(&mut Config) -> &mut bool) -> Result {
        self.configure(|config| {
            *place(config) = kstrtobool_bytes(text)?;
            Ok(())
        })
    }

    /// As [`Self::configure`], for a number; the log names its bounds.
    fn number(
        &self,
        name: &str,
        text: &[u8],
        bounds: core::ops::RangeInclusive<u32>,
        set: fn(&mut Config, u32),
    ) -> Result {
        self.configure(|config| {
            let number = config::number(text).filter(|number| bounds.contains(number));
            let Some(number) = number else {
                let text = BStr::from_bytes(config::line(text));
                let (target, first, last) = (self.target.name(), bounds.start(), bounds.end());
                pr_err!("{target}: {name}={text}: must be from {first} to {last}\n");
                return Err(EINVAL);
            };
            set(config, number);
            Ok(())
        })
    }

    /// Logs the valid words, and returns the error.
    fn none_of(&self, name: &str, text: &[u8], words: &str) -> Error {
        let text = BStr::from_bytes(config::line(text));
        let target = self.target.name();
        pr_err!("{target}: {name}={text}: must be {words}\n");
        EINVAL
    }

    fn config(&self) -> Config {
        self.target.config()
    }
}

/// Returns 1 or 0.
fn bit(on: bool) -> u8 {
    u8::from(on)
}

// enabled
attribute!(
    TargetDir,
    0,
    |dir| bit(dir.target.is_enabled()),
    |dir, text| {
        let enabled = kstrtobool_bytes(text)?;
        dir.control.set_enabled(&dir.target, enabled)
    }
);
// extended
attribute!(
    TargetDir,
    1,
    |dir| bit(dir.config().target.extended),
    |dir, text| dir.switch(text, |config| &mut config.target.extended)
);
// release
attribute!(
    TargetDir,
    2,
    |dir| bit(dir.config().target.release),
    |dir, text| dir.switch(text, |config| &mut config.target.release)
);
// dev_name
attribute!(TargetDir, 3, |dir| device_name(&dir.target), |dir, text| {
    let name = config::device(text).map_err(|bad| match bad {
        BadName::TooLong => ENAMETOOLONG,
        BadName::Invalid => EINVAL,
    });
    dir.configure(|config| {
        config.target.device = Device::Name(name?);
        Ok(())
    })
});
// local_port
attribute!(
    TargetDir,
    4,
    |dir| dir.config().target.local_port,
    |dir, text| dir.configure(|config| {
        config.target.local_port = config::port(text).ok_or(EINVAL)?;
        Ok(())
    })
);
// remote_port
attribute!(
    TargetDir,
    5,
    |dir| dir.config().target.remote_port,
    |dir, text| dir.configure(|config| {
        config.target.remote_port = config::port(text).ok_or(EINVAL)?;
        Ok(())
    })
);
// local_ip
attribute!(
    TargetDir,
    6,
    |dir| {
        let used = dir.target.path().map(|path| path.addresses.local());
        used.unwrap_or(dir.config().shown_local_ip())
    },
    |dir, text| dir.configure(|config| {
        let ip = config::address(text).ok_or(EINVAL)?;
        // The unspecified address is as good as none, as upstream has it.
        config.target.local_ip = Some(ip).filter(|ip| !ip.is_unspecified());
        Ok(())
    })
);
// remote_ip
attribute!(
    TargetDir,
    7,
    |dir| dir.config().target.remote_ip,
    |dir, text| dir.configure(|config| {
        config.target.remote_ip = config::address(text).ok_or(EINVAL)?;
        Ok(())
    })
);
// local_mac
attribute!(TargetDir, 8, |dir| {
    let address = dir
        .target
        .with_port(|port| port.device()?.ethernet_address());
    address.flatten().map_or(MacAddr::BROADCAST, MacAddr)
});
// remote_mac
attribute!(
    TargetDir,
    9,
    |dir| {
        let used = dir.target.path().map(|path| path.remote_mac);
        let given = dir.config().target.remote_mac;
        used.or(given).unwrap_or(MacAddr::BROADCAST)
    },
    |dir, text| dir.configure(|config| {
        config.target.remote_mac = config::mac(text).ok_or(EINVAL)?;
        Ok(())
    })
);
// transmit_errors
attribute!(TargetDir, 10, |dir| dir.target.stats().transmit_errors());
// dialect
attribute!(
    TargetDir,
    11,
    |dir| config::dialect_name(dir.config().settings.dialect),
    |dir, text| dir.configure(|config| {
        let dialect = config::dialect(text);
        let dialect = dialect.ok_or_else(|| dir.none_of("dialect", text, "auto, nca or ncrx"));
        config.settings.dialect = dialect?;
        Ok(())
    })
);
// session
attribute!(
    TargetDir,
    12,
    |dir| dir.config().settings.policy.name(),
    |dir, text| dir.configure(|config| {
        let policy = Policy::parse(config::line(text));
        let policy = policy.ok_or_else(|| dir.none_of("session", text, "auto, require or off"));
        config.settings.policy = policy?;
        Ok(())
    })
);
// full_log
attribute!(
    TargetDir,
    13,
    |dir| bit(dir.config().settings.full_log),
    |dir, text| dir.switch(text, |config| &mut config.settings.full_log)
);
/// An attribute of a target that is a number in its settings.
macro_rules! number {
    ($n:literal, $name:literal, $bounds:ident, $($field:ident).+) => {
        attribute!(
            TargetDir,
            $n,
            |dir| dir.config().settings.$($field).+,
            |dir, text| dir.number($name, text, bounds::$bounds, |config, n| {
                config.settings.$($field).+ = n.into();
            })
        );
    };
}
number!(14, "ack_timeout_ms", ACK_TIMEOUT_MS, intervals.ack_timeout);
number!(15, "emg_min_intv_ms", EMG_INTV_MS, intervals.min);
number!(16, "emg_max_intv_ms", EMG_INTV_MS, intervals.max);
number!(17, "retransmit_rate", RETRANSMIT, retransmit_rate);
number!(18, "keepalive_s", KEEPALIVE_S, keepalive_s);
number!(19, "panic_hold_ms", PANIC_HOLD_MS, panic_hold_ms);
number!(20, "crash_repeats", CRASH_REPEATS, crash_repeats);

/// The name of a device, or none.
struct ShownName(Option<DevName>);

impl Display for ShownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| name.fmt(f))
    }
}

/// Returns the name of a target's device. A device that was given by its address has no name until
/// it is in use, as upstream shows it.
fn device_name(target: &Target) -> ShownName {
    let used = |name: &CStr| DevName::new(name.to_bytes());
    ShownName(match target.config().target.device {
        Device::Name(name) => Some(name),
        Device::Mac(_) => {
            let rtnl = Rtnl::lock();
            let name = target.with_port(|port| used(port.device()?.name(&rtnl)));
            name.flatten()
        }
    })
}

impl UserdataDir {
    fn field(&self, line: Sysdata) -> u8 {
        bit(self.0.extras().fields().contains(line))
    }

    fn set_field(&self, line: Sysdata, text: &[u8]) -> Result {
        let on = kstrtobool_bytes(text)?;
        set_fields(&self.0, |fields| fields.with(line, on))
    }
}

// cpu_nr_enabled
attribute!(
    UserdataDir,
    0,
    |dir| dir.field(Sysdata::Cpu),
    |dir, text| dir.set_field(Sysdata::Cpu, text)
);
// taskname_enabled
attribute!(
    UserdataDir,
    1,
    |dir| dir.field(Sysdata::Taskname),
    |dir, text| dir.set_field(Sysdata::Taskname, text)
);
// release_enabled
attribute!(
    UserdataDir,
    2,
    |dir| dir.field(Sysdata::Release),
    |dir, text| dir.set_field(Sysdata::Release, text)
);
// msgid_enabled
attribute!(
    UserdataDir,
    3,
    |dir| dir.field(Sysdata::MsgId),
    |dir, text| dir.set_field(Sysdata::MsgId, text)
);

/// The value of a key. It may have bytes that are not UTF-8, so it is not formatted as text.
#[vtable]
impl AttributeOperations<0> for KeyDir {
    type Data = KeyDir;

    fn show(dir: &KeyDir, page: &mut Page) -> Result<usize> {
        dir.target.extras().with_value(&dir.key, |value| {
            let (to, rest) = page.split_at_mut(value.len());
            to.copy_from_slice(value);
            rest[0] = b'\n';
            Ok(value.len() + 1)
        })
    }

    fn store(dir: &KeyDir, text: &[u8]) -> Result {
        let value = extradata::value(text).map_err(|bad| match bad {
            BadValue::TooLong => EMSGSIZE,
            BadValue::Control => EINVAL,
        })?;
        let mut new = KVec::new();
        new.extend_from_slice(value, GFP_KERNEL)?;
        set_value(&dir.target, &dir.key, new)
    }
}

attribute!(StatsDir, 0, |dir| dir.0.condition().name());
attribute!(StatsDir, 1, |dir| dir.0.acks().acked().unwrap_or(0));
attribute!(StatsDir, 2, |dir| dir.0.sent_seq().unwrap_or(0));
attribute!(StatsDir, 3, |dir| dir.0.unacked().map_or(0, |u| u.count));
attribute!(StatsDir, 4, |dir| dir
    .0
    .unacked()
    .map_or(0, |u| u.oldest_ms));
attribute!(StatsDir, 5, |dir| dir.0.stats().records.get());
attribute!(StatsDir, 6, |dir| dir.0.stats().datagrams.get());
attribute!(StatsDir, 7, |dir| dir.0.stats().retransmitted.get());
attribute!(StatsDir, 8, |dir| dir.0.stats().emergency.get());
attribute!(StatsDir, 9, |dir| dir
    .0
    .acks()
    .state()
    .lock()
    .schedule
    .rounds());
attribute!(StatsDir, 10, |dir| dir.0.stats().responses.get());
attribute!(StatsDir, 11, |dir| dir.0.stats().bad_responses.get());
attribute!(StatsDir, 12, |dir| dir.0.stats().lost.get());
attribute!(StatsDir, 13, |dir| dir.0.stats().not_sent());
