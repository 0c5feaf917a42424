//! The desk of a pool of connections under every interleaving: a connection reaches a caller or is kept, whoever goes away when.
//!
//! The file is the crate's own; the lock and the callers' mailboxes are the model's.

#[allow(dead_code, reason = "the model uses a part of it")]
#[path = "../../src/net/desk.rs"]
mod desk;

use desk::{Caller, Desk, Found};
use loom_tests::{Arc, Mutex, model, thread};

/// Where a caller is told the outcome: a connection is a number.
#[derive(Default)]
struct Mail {
    told: Option<Result<u32, ()>>,
    gone: bool,
}

type Mailbox = Arc<Mutex<Mail>>;

struct Waiting(Mailbox);

impl Caller<u32, ()> for Waiting {
    fn is_gone(&self) -> bool {
        self.0.lock().unwrap().gone
    }

    fn tell(self, outcome: Result<u32, ()>) -> Result<(), Result<u32, ()>> {
        let mut mail = self.0.lock().unwrap();
        if mail.gone {
            return Err(outcome);
        }
        mail.told = Some(outcome);
        Ok(())
    }
}

type Shared = Arc<Mutex<Desk<u32, Waiting>>>;

fn mailbox() -> Mailbox {
    Arc::new(Mutex::new(Mail::default()))
}

fn ask(desk: &Shared, mail: &Mailbox) -> Found<u32> {
    desk.lock().unwrap().ask(|| Waiting(mail.clone()))
}

/// What the pool does when a caller goes away: what was told to him goes to the next.
fn leave(desk: &Shared, mail: &Mailbox) {
    let told = {
        let mut mail = mail.lock().unwrap();
        mail.gone = true;
        mail.told.take()
    };
    if let Some(Ok(connection)) = told {
        let back = desk.lock().unwrap().hand_back(connection);
        assert!(back.is_none(), "the desk is open");
    }
}

#[test]
fn a_caller_who_goes_away_as_his_flight_lands_leaves_the_connection_to_the_next() {
    model(|| {
        let desk: Shared = Arc::new(Mutex::new(Desk::new()));
        let (first, second) = (mailbox(), mailbox());
        assert!(matches!(ask(&desk, &first), Found::Depart));
        let landing = {
            let desk = desk.clone();
            thread::spawn(move || assert!(desk.lock().unwrap().land(Ok(7)).is_none()))
        };
        let leaving = {
            let (desk, first) = (desk.clone(), first.clone());
            thread::spawn(move || leave(&desk, &first))
        };
        let found = ask(&desk, &second);
        landing.join().unwrap();
        leaving.join().unwrap();
        let mut flights = 0;
        let got = match found {
            Found::Ready(connection) => Some(connection),
            Found::Depart => {
                // Both were there when he came: a second flight, of which the model lets nothing come.
                flights = 1;
                second.lock().unwrap().told.and_then(Result::ok)
            }
            Found::Wait => second.lock().unwrap().told.and_then(Result::ok),
            Found::Closed => panic!("the desk is open"),
        };
        let desk = desk.lock().unwrap();
        assert_eq!(desk.flights(), flights);
        // A departed second caller may be unserved only while his own flight is under way, and never beside a connection.
        assert_eq!(got.is_some() as usize + desk.ready(), 1, "the connection was lost");
        assert!(got.is_some() || flights == 1, "a caller waits for nothing");
        assert!(got.is_some() || desk.ready() == 0, "a caller waits beside a connection");
    });
}

#[test]
fn two_callers_and_two_flights_end_with_a_connection_each() {
    model(|| {
        let desk: Shared = Arc::new(Mutex::new(Desk::new()));
        let callers: Vec<_> = (0..2)
            .map(|number| {
                let desk = desk.clone();
                thread::spawn(move || {
                    let mail = mailbox();
                    match ask(&desk, &mail) {
                        Found::Ready(connection) => Ok(connection),
                        Found::Depart => {
                            assert!(desk.lock().unwrap().land(Ok(number)).is_none());
                            Err(mail)
                        }
                        Found::Wait => Err(mail),
                        Found::Closed => panic!("the desk is open"),
                    }
                })
            })
            .collect();
        let callers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let ready = desk.lock().unwrap().ready();
        let got = callers.into_iter().filter_map(|caller| match caller {
            Ok(connection) => Some(connection),
            Err(mail) => mail.lock().unwrap().told.and_then(Result::ok),
        });
        assert_eq!((got.count(), ready), (2, 0), "a caller was left behind");
    });
}

#[test]
fn a_desk_that_closes_as_a_flight_lands_keeps_nothing() {
    model(|| {
        let desk: Shared = Arc::new(Mutex::new(Desk::new()));
        assert!(desk.lock().unwrap().depart());
        let closing = {
            let desk = desk.clone();
            thread::spawn(move || desk.lock().unwrap().close().0.len())
        };
        let back = desk.lock().unwrap().land(Ok(7));
        let closed = closing.join().unwrap();
        let back = matches!(back, Some(Ok(7))) as usize;
        assert_eq!(back + closed, 1, "kept by nobody, or twice");
        assert_eq!(desk.lock().unwrap().ready(), 0);
    });
}
