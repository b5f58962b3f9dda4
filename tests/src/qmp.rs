// SPDX-License-Identifier: GPL-2.0

//! QEMU's own control channel.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use tinyjson::JsonValue;

/// A connection to QEMU's monitor.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes QEMU's greeting and leaves the negotiation mode.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        let greeting = qmp.read()?;
        ensure!(
            greeting.contains_key("QMP"),
            "not a QMP greeting: {greeting:?}"
        );
        qmp.execute("qmp_capabilities", [])?;
        Ok(qmp)
    }

    /// Runs a command, and returns its result.
    pub fn execute<const N: usize>(
        &mut self,
        command: &str,
        arguments: [(&str, JsonValue); N],
    ) -> Result<JsonValue> {
        let arguments = arguments.map(|(name, value)| (name.to_string(), value));
        let request = JsonValue::from(HashMap::from([
            ("execute".to_string(), JsonValue::from(command.to_string())),
            ("arguments".to_string(), HashMap::from(arguments).into()),
        ]));
        writeln!(self.stream.get_mut(), "{}", request.stringify()?)?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.remove("return") {
                return Ok(value);
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error:?}");
            }
            // Anything else is an event, which is not needed here.
        }
    }

    /// Returns a processor's registers, as QEMU's monitor shows them to people.
    pub fn registers(&mut self, cpu: u32) -> Result<String> {
        let arguments = [
            ("command-line", "info registers".to_string().into()),
            ("cpu-index", f64::from(cpu).into()),
        ];
        let said = self.execute("human-monitor-command", arguments)?;
        said.try_into().context("no text from the monitor")
    }

    /// Saves a paused machine in `file`.
    pub fn save(&mut self, file: &Path) -> Result<()> {
        // QEMU 7.2 cannot migrate to a file, only to a program, which writes the file.
        let uri = format!("exec:exec cat > '{}'", file.display());
        // No limit of the speed.
        self.execute("migrate-set-parameters", [("max-bandwidth", 1e12.into())])?;
        self.execute("migrate", [("uri", uri.into())])?;
        self.wait_for_migration()
    }

    /// Loads a machine that was saved in `file` into one that was started for it.
    pub fn load(&mut self, file: &Path) -> Result<()> {
        let uri = format!("exec:exec cat '{}'", file.display());
        // The machine has not moved to another port of a switch, so the network need not know.
        self.execute("migrate-set-parameters", [("announce-rounds", 0.0.into())])?;
        self.execute("migrate-incoming", [("uri", uri.into())])?;
        self.wait_for_migration()
    }

    fn wait_for_migration(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.execute("query-migrate", [])?;
            match text(&answer, "status") {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("QEMU has failed: {answer:?}"),
                _ => ensure!(
                    Instant::now() < until,
                    "QEMU does not get it done: {answer:?}"
                ),
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Returns the machine's state: "running", "paused", "suspended" ...
    pub fn status(&mut self) -> Result<String> {
        let answer = self.execute("query-status", [])?;
        let status = text(&answer, "status").context("no status from QEMU")?;
        Ok(status.to_string())
    }

    fn read(&mut self) -> Result<HashMap<String, JsonValue>> {
        let mut line = String::new();
        let n = self.stream.read_line(&mut line)?;
        ensure!(n > 0, "QEMU has closed its monitor");
        let answer: JsonValue = line.parse()?;
        answer.try_into().context("not an object from QEMU")
    }
}

/// Returns the text of an object's member `name`, if there is one.
fn text<'a>(object: &'a JsonValue, name: &str) -> Option<&'a str> {
    let object: &HashMap<String, JsonValue> = object.get()?;
    object.get(name)?.get::<String>().map(String::as_str)
}
