// SPDX-License-Identifier: GPL-2.0

//! What a target does besides sending records that printk gives it: its work item.
//!
//! It runs in process context when a response has arrived, when something about addresses has
//! changed, when the timer has something to be said in the log, and once a second. Sending records
//! for the first time depends on none of this, but for a backlog.

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
        Target, //
    },
    test_hooks, //
};

/// From one look at the addresses to the next at least, in milliseconds: neighbours that change
/// often are told of as often.
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
        test_hooks::work();
        let work = &mut *this.acks().work().lock();
        let now = now_ms();
        if now.saturating_sub(work.followed_at) >= FOLLOW_MS {
            work.followed_at = now;
            path_refresh::follow(&this);
        }
        if this.is(true) {
            ack::serve(&this, work, now);
            catch_up::send(&this, &mut work.buffer);
        }
    }
}
