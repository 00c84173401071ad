//! Which checkpoints are being made in a lab, so that no other lab makes the same meanwhile.

use crate::base::watch::Watch;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The checkpoints that trials in labs of this run are making, by their names outside.
#[derive(Clone, Default)]
pub struct Claims(Arc<Watch<BTreeSet<String>>>);

/// One of them, until it is dropped.
pub struct Claim {
    claims: Claims,
    name: String,
}

impl Claims {
    /// Waits until nobody makes that checkpoint. Who has a claim must not ask for another: two could wait for one
    /// another.
    pub fn wait(&self, name: &str) -> Claim {
        let free = |taken: &mut BTreeSet<String>| taken.insert(name.to_owned()).then_some(());
        self.0.wait_forever(free);
        Claim {
            claims: self.clone(),
            name: name.to_owned(),
        }
    }
}

impl Claim {
    /// Whether it is of the checkpoint of that name.
    pub fn is_of(&self, name: &str) -> bool {
        self.name == name
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.update(|taken| taken.remove(&self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[test]
    fn who_comes_second_waits_for_the_first_and_for_nobody_else() {
        let claims = Claims::default();
        let first = claims.wait("rhel9 up");
        drop(claims.wait("rhel6 up"));
        let made = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let claim = claims.wait("rhel9 up");
                assert!(made.load(Ordering::SeqCst));
                claim.is_of("rhel9 up")
            });
            std::thread::sleep(Duration::from_millis(30));
            made.store(true, Ordering::SeqCst);
            drop(first);
            assert!(second.join().unwrap());
        });
    }
}
