// SPDX-License-Identifier: GPL-2.0

//! The host's end of the channel to the agent in the guest.

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use nctest_guest::{receive, send, unpack, Burst, Request, Response};

/// The time that the agent may take beyond a request's own limit: an emulated
/// machine beside other emulated machines can be slow.
const SLACK: Duration = Duration::from_secs(30);

/// The agent of one guest.
pub struct Agent {
    stream: BufReader<UnixStream>,
}

/// The result of a script.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// The text that it printed, to standard output or error.
    pub text: String,
}

/// The content of `/dev/kmsg`.
#[derive(Debug, Clone)]
pub struct Kmsg {
    /// Every record, in order, as one read(2) returned it.
    pub records: Vec<Vec<u8>>,
    /// The number of times that records were overwritten before they could be read.
    pub overwritten: u32,
}

/// The result of a burst.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// The records that were accepted.
    pub written: u64,
    /// The number of times that the kernel asked to try again.
    pub again: u64,
    /// The time it took.
    pub took: Duration,
}

impl Agent {
    /// Returns the agent at the other end of `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Waits for the agent of a guest that boots; returns the guest's kernel release.
    pub fn ready(&mut self, limit: Duration) -> Result<String> {
        match self.read(limit).context("waiting for the guest to start")? {
            (Response::Ready { release }, _) => Ok(release),
            (other, _) => bail!("unexpected first words: {other:?}"),
        }
    }

    /// Puts a file into the guest, and the directories that lead to it.
    pub fn put(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let path = path.to_string();
        match self.call(&Request::Put { path, mode }, data, Duration::from_secs(60))? {
            (Response::Done, _) => Ok(()),
            (other, _) => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Runs a shell script in the guest.
    pub fn exec(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let timeout_s = u32::try_from(limit.as_secs())?.max(1);
        let request = Request::Exec { timeout_s };
        match self.call(&request, script.as_bytes(), limit)? {
            (Response::Exec { code }, text) => Ok(Output {
                code,
                text: String::from_utf8_lossy(&text).into_owned(),
            }),
            (other, _) => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Runs a script that must succeed, and returns its output.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        let output = self.exec(script, Duration::from_secs(60))?;
        let Output { code, text } = output;
        ensure!(
            code == 0,
            "exit code {code} in the guest from:\n{script}\n{text}"
        );
        Ok(text)
    }

    /// Reads all of `/dev/kmsg`.
    pub fn kmsg(&mut self) -> Result<Kmsg> {
        match self.call(&Request::Kmsg, b"", Duration::from_secs(60))? {
            (Response::Kmsg { overwritten }, packed) => Ok(Kmsg {
                records: unpack(&packed),
                overwritten,
            }),
            (other, _) => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Writes a burst of records.
    pub fn log(&mut self, burst: &Burst, limit: Duration) -> Result<Written> {
        match self.call(&Request::Log(burst.clone()), b"", limit)? {
            (
                Response::Log {
                    written,
                    again,
                    usec,
                },
                _,
            ) => Ok(Written {
                written,
                again,
                took: Duration::from_micros(usec),
            }),
            (other, _) => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Binds a UDP port in the guest, so that nothing else can.
    pub fn bind(&mut self, address: &str) -> Result<()> {
        let address = address.to_string();
        self.order(&Request::Bind { address })
    }

    /// Gives all such ports up.
    pub fn unbind(&mut self) -> Result<()> {
        self.order(&Request::Unbind)
    }

    /// Has the guest send UDP datagrams from a CPU as fast as it goes, for good.
    pub fn flood(&mut self, address: &str, cpu: usize) -> Result<()> {
        let address = address.to_string();
        self.order(&Request::Flood { address, cpu })
    }

    fn order(&mut self, request: &Request) -> Result<()> {
        match self.call(request, b"", Duration::from_secs(10))? {
            (Response::Done, _) => Ok(()),
            (other, _) => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Switches the machine off, without waiting for it.
    pub fn poweroff(&mut self) -> Result<()> {
        Ok(send(self.stream.get_mut(), &Request::Poweroff, b"")?)
    }

    fn call(
        &mut self,
        request: &Request,
        payload: &[u8],
        limit: Duration,
    ) -> Result<(Response, Vec<u8>)> {
        send(self.stream.get_mut(), request, payload)?;
        let what = || format!("no answer from the guest's agent to {request:?}");
        match self.read(limit + SLACK).with_context(what)? {
            (Response::Error { message }, _) => bail!("the guest's agent: {message}"),
            answer => Ok(answer),
        }
    }

    fn read(&mut self, limit: Duration) -> Result<(Response, Vec<u8>)> {
        self.stream.get_mut().set_read_timeout(Some(limit))?;
        Ok(receive(&mut self.stream)?)
    }
}
