//! Budgets one above the other: what is charged to one is charged to all above it, or to none.
//!
//! 1. A path is walked upwards, from the innermost budget to the outermost, and each grants on its own. So no interleaving takes
//!    any of them above its limit.
//! 2. The first that refuses ends the walk, and those below give back what they had granted. Until then they count it: somebody
//!    who asks one of them for the same room at that moment may be refused although the room comes back at once. It never
//!    errs the other way.
//! 3. A share goes back from the innermost outwards too: what a budget grants anew is never more than those above still hold
//!    room for, or they refuse it themselves.

#![forbid(unsafe_code)]

use super::{Budget, OverBudget, OverRelease};

/// A budget of a path refused; none holds more than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedAt {
    /// Which one, counted from the innermost.
    pub depth: usize,
    /// What it said.
    pub over: OverBudget,
}

/// Takes `amount` of every budget of a path, innermost first.
///
/// ```
/// use democratising::pool::budget::{Budget, path};
///
/// let (request, process) = (Budget::new(10), Budget::new(15));
/// let other = process.charge(8)?;
/// let refused = path::try_take([&request, &process], 9).unwrap_err();
/// assert_eq!((refused.depth, refused.over.left), (1, 7));
/// assert_eq!(request.used(), 0);
/// # drop(other);
/// # Ok::<(), democratising::pool::budget::OverBudget>(())
/// ```
///
/// # Errors
/// [`RefusedAt`] with what the first budget said that has less left. All hold then what they held.
pub fn try_take<'a, P>(path: P, amount: u64) -> Result<(), RefusedAt>
where
    P: IntoIterator<Item = &'a Budget>,
    P::IntoIter: Clone,
{
    let path = path.into_iter();
    for (depth, budget) in path.clone().enumerate() {
        if let Err(over) = budget.try_take(amount) {
            for below in path.take(depth) {
                let released = below.release(amount);
                debug_assert!(released.is_ok(), "what was just taken is held");
            }
            return Err(RefusedAt { depth, over });
        }
    }
    Ok(())
}

/// Gives `amount` back to every budget of a path that [`try_take`] took it from.
///
/// # Errors
/// The first [`OverRelease`], where one of them holds less: some share was given back twice. The others have it back.
pub fn release<'a>(path: impl IntoIterator<Item = &'a Budget>, amount: u64) -> Result<(), OverRelease> {
    let mut result = Ok(());
    for budget in path {
        result = result.and(budget.release(amount));
    }
    result
}

#[cfg(all(test, not(democratising_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_charged_as_a_whole_or_not_at_all() {
        let budgets = [Budget::new(100), Budget::new(10), Budget::new(50)];
        try_take(&budgets, 10).unwrap();
        assert!(budgets.iter().all(|budget| budget.used() == 10));
        let refused = try_take(&budgets, 1).unwrap_err();
        assert_eq!(
            refused,
            RefusedAt { depth: 1, over: OverBudget { asked: 1, left: 0, limit: 10 } },
            "the one in the middle"
        );
        assert!(budgets.iter().all(|budget| budget.used() == 10));
        release(&budgets, 10).unwrap();
        assert!(budgets.iter().all(|budget| budget.used() == 0));
    }

    #[test]
    fn a_path_of_nothing_grants_anything() {
        assert_eq!(try_take([], u64::MAX), Ok(()));
        assert_eq!(release([], u64::MAX), Ok(()));
    }

    #[test]
    fn a_second_release_is_named_and_the_rest_of_the_path_stays_right() {
        let (inner, outer) = (Budget::new(10), Budget::new(10));
        outer.try_take(4).unwrap();
        assert_eq!(release([&inner, &outer], 4), Err(OverRelease { given: 4, used: 0 }));
        assert_eq!(outer.used(), 0);
    }
}
