// SPDX-License-Identifier: GPL-2.0

//! SIGHUP: what can be changed while ncrx runs is changed to what the file of options says.

use std::sync::{Mutex, PoisonError};

use crate::choices::Current;
use crate::crashes::Hub;
use crate::index::Message;
use crate::settings::Settings;
use crate::setup::{self, Files};
use crate::sink::{Bounds, Policy, Sink};

/// The options that change at once.
const AT_ONCE: [&str; 3] = ["allow", "host-rate", "on-crash"];
/// Those that do if the outputs and their places stay.
const OF_OUTPUTS: [&str; 11] = [
    "output",
    "best-effort",
    "format",
    "wall-clock",
    "color",
    "json-kmsg",
    "rotate",
    "keep",
    "compress",
    "keep-size",
    "keep-age",
];

/// The parts of the program that may be changed.
pub struct Running<'a> {
    /// The files of names, networks and expected hosts.
    pub files: &'a Files,
    /// The outputs.
    pub sinks: &'a [Sink],
    /// The index and the program of `--on-crash`.
    pub hub: &'a Hub,
    /// The choices about records.
    pub choices: &'a Current,
    /// How much of old files is kept.
    pub bounds: &'a Mutex<Bounds>,
}

impl Running<'_> {
    /// Reads the file of options again, has them take effect that can, and names those that cannot.
    /// After an error nothing has changed.
    pub fn reload(&self, settings: &mut Settings) -> anyhow::Result<()> {
        let (program, changed) = settings.read()?;
        let cli = program.cli;
        let same = setup::are_outputs(&cli, self.sinks)?;
        let mut choices = setup::choices(&cli)?;
        let indexed = setup::indexed(&cli)?;
        setup::check_on_crash(&cli)?;
        if same {
            self.files.set(&cli)?;
        }
        self.hub.hook.set(setup::on_crash(&cli))?;
        // Nothing fails from here on.
        if same {
            for sink in self.sinks {
                let Policy { sync, ending, .. } = sink.policy();
                let policy = setup::policy(&cli, ending);
                sink.set_policy(Policy { sync, ..policy });
            }
            *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = setup::bounds(&cli);
            if let Some(index) = &self.hub.index {
                index.tell(Message::Outputs(indexed));
            }
        } else {
            choices.looks = None;
        }
        self.choices.set(choices);
        self.files.allow.set_given(cli.allow);

        let is_done = |name: &str| AT_ONCE.contains(&name) || same && OF_OUTPUTS.contains(&name);
        for name in changed.iter().filter(|name| !is_done(name)) {
            let path = settings.path().display();
            tracing::warn!(
                "{path}: `{name}` has changed: that takes effect when ncrx is started anew"
            );
        }
        Ok(())
    }
}
