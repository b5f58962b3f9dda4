// SPDX-License-Identifier: GPL-2.0

//! The work item of a target.
//!
//! It runs in process context: once a second while records are logged, when a response has arrived,
//! an address or a neighbour has changed, the timer has something to be logged, and when it has
//! said that it wants to. The first transmission of records does not depend on it, except for a
//! backlog.

use kernel::{
    sync::Arc,
    workqueue::{
        impl_has_work,
        WorkItem, //
    },
};

use crate::{
    ack,
    sys::time::now_ms,
    target::{
        catch_up,
        path_refresh,
        Target,
        CHECK_MS,
        NEVER, //
    },
    test_hooks, //
};

/// The shortest time between two looks at the addresses, in milliseconds: neighbours may change
/// often, with an event each.
const FOLLOW_MS: u64 = 100;

impl_has_work! {
    impl HasWork<Self> for Target { self.work }
}

impl WorkItem for Target {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if !this.is_enabled() {
            return;
        }
        test_hooks::work(|f| {
            this.with_port(|port| port.device().map(f));
        });
        let work = &mut *this.acks().work().lock();
        let now = now_ms();
        if now.saturating_sub(work.followed_at) >= FOLLOW_MS {
            work.followed_at = now;
            work.path_is_known = path_refresh::follow(&this);
        }
        let mut due = NEVER;
        if this.is(true) {
            due = ack::serve(&this, work, now);
            catch_up::send(&this);
        }
        if !work.path_is_known || this.is_behind() {
            due = due.min(now.saturating_add(CHECK_MS));
        }
        this.set_work_due(due);
        if due != NEVER {
            this.shared().alarm.arm(due.saturating_sub(now));
        }
    }
}
