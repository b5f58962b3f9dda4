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
        GroupOperations,
        ItemType, //
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
        ArcBorrow,
        UniqueArc, //
    },
};

use crate::{
    control::Control,
    proto::{
        addr::{
            DevName,
            MacAddr, //
        },
        cmdline::Device,
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
            Subsystem, //
        },
        netdev::Rtnl, //
    },
    target::{
        userdata::{
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

/// Lists and implements the attributes of a directory: each by a function that shows its value and,
/// unless it is read-only, one that takes the text that is written. `number` is one of a target's
/// settings, with its bounds.
///
/// Makes a function that returns the type of the directory.
macro_rules! attributes {
    ($type:ident($dir:ident $(, child: $child:ident)?) { $($attributes:tt)* }) => {
        attributes!(@next $type $dir ($($child)?)
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]
            [] $($attributes)*);
    };
    (@next $type:ident $dir:ident $child:tt $ids:tt $listed:tt
        $name:ident => number($bounds:ident, $($field:ident).+); $($rest:tt)*
    ) => {
        attributes!(@next $type $dir $child $ids $listed
            $name => |dir| dir.config().settings.$($field).+, |dir, text| {
                dir.number(stringify!($name), text, bounds::$bounds, |config, n| {
                    config.settings.$($field).+ = n.into();
                })
            };
            $($rest)*);
    };
    (@next $type:ident $dir:ident $child:tt [$id:literal $($ids:literal)*] [$($listed:tt)*]
        $name:ident => $show:expr $(, $store:expr)?; $($rest:tt)*
    ) => {
        #[vtable]
        impl AttributeOperations<$id> for $dir {
            type Data = $dir;

            fn show(dir: &$dir, page: &mut Page) -> Result<usize> {
                let show: fn(&$dir) -> _ = $show;
                emit(page, format_args!("{}\n", show(dir)))
            }

            $(fn store(dir: &$dir, text: &[u8]) -> Result {
                let store: fn(&$dir, &[u8]) -> Result = $store;
                store(dir, text)
            })?
        }
        attributes!(@next $type $dir $child [$($ids)*] [$($listed)* $name: $id,] $($rest)*);
    };
    (@next $type:ident $dir:ident ($($child:ident)?) $ids:tt [$($listed:tt)*]) => {
        fn $type() -> &'static ItemType<Group<$dir>, $dir> {
            configfs_attrs! {
                container: Group<$dir>,
                data: $dir,
                $(child: $child,)?
                attributes: [$($listed)*],
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
    let userdata = UserdataDir(target.clone());
    let userdata = Group::new(c"userdata".try_into()?, userdata_type(), Ok(userdata));
    let userdata = UniqueArc::pin_init(userdata, GFP_KERNEL)?;
    let stats = StatsDir(target.clone());
    let stats = Group::new(c"stats".try_into()?, stats_type(), Ok(stats));
    let stats = UniqueArc::pin_init(stats, GFP_KERNEL)?;
    let dir = TargetDir { control, target };
    let dir = Group::new(name.try_into()?, target_type(), Ok(dir));
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
        // Before there is a group: one that is given up does not free a long name.
        add_key(&self.0, name)?;
        let dir = KeyDir {
            target: self.0.clone(),
            key: name.try_into()?,
        };
        let group = Group::new(name.try_into()?, key_type, Ok(dir));
        Ok(group.pin_chain(|key| {
            name_of(&key).ok_or(ENOMEM)?;
            complete_attributes(&key);
            Ok(())
        }))
    }

    fn drop_item(&self, key: ArcBorrow<'_, Group<KeyDir>>) {
        // Without memory the line goes with the next change.
        let _ = name_of(&key).map(|name| remove_key(&self.0, name));
    }
}

impl TargetDir {
    /// Changes the configuration, unless the target is enabled.
    fn configure(&self, change: &mut dyn FnMut(&mut Config) -> Result) -> Result {
        self.control.configure(&self.target, change)
    }

    /// Changes one part of the configuration, unless there is no value for it.
    fn set<T: Copy>(&self, value: Result<T>, set: fn(&mut Config, T)) -> Result {
        // An enabled target says so first.
        self.configure(&mut |config| {
            set(config, value?);
            Ok(())
        })
    }

    /// As [`Self::configure`], for a switch.
    fn switch(&self, text: &[u8], place: fn(&mut Config) -> &mut bool) -> Result {
        self.configure(&mut |config| {
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
        self.configure(&mut |config| {
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

    // Not in each of its callers, the attributes.
    #[inline(never)]
    fn config(&self) -> Config {
        self.target.config()
    }
}

/// Returns 1 or 0.
fn bit(on: bool) -> u8 {
    u8::from(on)
}

attributes! {
    target_type(TargetDir) {
        enabled => |dir| bit(dir.target.is_enabled()), |dir, text| {
            let enabled = kstrtobool_bytes(text)?;
            dir.control.set_enabled(&dir.target, enabled)
        };
        extended => |dir| bit(dir.config().target.extended), |dir, text| {
            dir.switch(text, |config| &mut config.target.extended)
        };
        release => |dir| bit(dir.config().target.release), |dir, text| {
            dir.switch(text, |config| &mut config.target.release)
        };
        dev_name => |dir| device_name(&dir.target), |dir, text| {
            let name = config::device(text).map_err(|bad| match bad {
                BadName::TooLong => ENAMETOOLONG,
                BadName::Invalid => EINVAL,
            });
            dir.set(name, |config, name| config.target.device = Device::Name(name))
        };
        local_port => |dir| dir.config().target.local_port, |dir, text| {
            let port = config::port(text).ok_or(EINVAL);
            dir.set(port, |config, port| config.target.local_port = port)
        };
        remote_port => |dir| dir.config().target.remote_port, |dir, text| {
            let port = config::port(text).ok_or(EINVAL);
            dir.set(port, |config, port| config.target.remote_port = port)
        };
        local_ip => |dir| {
            let used = dir.target.path().map(|path| path.addresses.local());
            used.unwrap_or(dir.config().shown_local_ip())
        }, |dir, text| {
            let ip = config::address(text).ok_or(EINVAL);
            dir.set(ip, |config, (ip, scope)| {
                // The unspecified address is as good as none, as upstream has it.
                config.target.local_ip = Some(ip).filter(|ip| !ip.is_unspecified());
                config.target.local_scope = scope;
            })
        };
        remote_ip => |dir| dir.config().target.remote_ip, |dir, text| {
            let ip = config::address(text).ok_or(EINVAL);
            dir.set(ip, |config, (ip, scope)| {
                config.target.remote_ip = ip;
                config.target.remote_scope = scope;
            })
        };
        local_mac => |dir| {
            let address = dir.target.with_port(|port| port.device()?.ethernet_address());
            address.flatten().map_or(MacAddr::BROADCAST, MacAddr)
        };
        remote_mac => |dir| {
            let used = dir.target.path().map(|path| path.remote_mac);
            let given = dir.config().target.remote_mac;
            used.or(given).unwrap_or(MacAddr::BROADCAST)
        }, |dir, text| {
            let mac = config::mac(text).ok_or(EINVAL);
            dir.set(mac, |config, mac| config.target.remote_mac = mac)
        };
        transmit_errors => |dir| dir.target.stats().transmit_errors();
        dialect => |dir| config::dialect_name(dir.config().settings.dialect), |dir, text| {
            dir.configure(&mut |config| {
                let dialect = config::dialect(text);
                let none = || dir.none_of("dialect", text, "auto, nca or ncrx");
                config.settings.dialect = dialect.ok_or_else(none)?;
                Ok(())
            })
        };
        session => |dir| dir.config().settings.policy.name(), |dir, text| {
            dir.configure(&mut |config| {
                let policy = Policy::parse(config::line(text));
                let none = || dir.none_of("session", text, "auto, require or off");
                config.settings.policy = policy.ok_or_else(none)?;
                Ok(())
            })
        };
        full_log => |dir| bit(dir.config().settings.full_log), |dir, text| {
            dir.switch(text, |config| &mut config.settings.full_log)
        };
        ack_timeout_ms => number(ACK_TIMEOUT_MS, intervals.ack_timeout);
        emg_min_intv_ms => number(EMG_INTV_MS, intervals.min);
        emg_max_intv_ms => number(EMG_INTV_MS, intervals.max);
        retransmit_rate => number(RETRANSMIT, retransmit_rate);
        keepalive_s => number(KEEPALIVE_S, keepalive_s);
        panic_hold_ms => number(PANIC_HOLD_MS, panic_hold_ms);
        crash_repeats => number(CRASH_REPEATS, crash_repeats);
    }
}

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
        bit(self.0.extradata().fields().contains(line))
    }

    fn set_field(&self, line: Sysdata, text: &[u8]) -> Result {
        let on = kstrtobool_bytes(text)?;
        set_fields(&self.0, |fields| fields.with(line, on))
    }
}

attributes! {
    userdata_type(UserdataDir, child: KeyDir) {
        cpu_nr_enabled => |dir| dir.field(Sysdata::Cpu), |dir, text| {
            dir.set_field(Sysdata::Cpu, text)
        };
        taskname_enabled => |dir| dir.field(Sysdata::Taskname), |dir, text| {
            dir.set_field(Sysdata::Taskname, text)
        };
        release_enabled => |dir| dir.field(Sysdata::Release), |dir, text| {
            dir.set_field(Sysdata::Release, text)
        };
        msgid_enabled => |dir| dir.field(Sysdata::MsgId), |dir, text| {
            dir.set_field(Sysdata::MsgId, text)
        };
    }
}

/// The value of a key. It may have bytes that are not UTF-8, so it is not formatted as text.
#[vtable]
impl AttributeOperations<0> for KeyDir {
    type Data = KeyDir;

    fn show(dir: &KeyDir, page: &mut Page) -> Result<usize> {
        dir.target.extradata().with_value(&dir.key, |value| {
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

attributes! {
    stats_type(StatsDir) {
        state => |dir| dir.0.status().name();
        acked_seq => |dir| dir.0.acks().acked().unwrap_or(0);
        sent_seq => |dir| dir.0.sent_seq().unwrap_or(0);
        unacked => |dir| dir.0.unacked().map_or(0, |u| u.count);
        oldest_unacked_ms => |dir| dir.0.unacked().map_or(0, |u| u.oldest_ms);
        records => |dir| dir.0.stats().records.get();
        datagrams => |dir| dir.0.stats().datagrams.get();
        retransmitted => |dir| dir.0.stats().retransmitted.get();
        emergency => |dir| dir.0.stats().emergency.get();
        emergency_rounds => |dir| dir.0.acks().state().lock().schedule.rounds();
        responses => |dir| dir.0.stats().responses.get();
        bad_responses => |dir| dir.0.stats().bad_responses.get();
        lost => |dir| dir.0.stats().lost.get();
        backlog => |dir| dir.0.backlog();
        dropped => |dir| dir.0.stats().not_sent();
    }
}
