//! Predictions over TCP: one row a line in, the class and its probability out.

use crate::model::Model;
use democratising::Result;
use democratising::net::{ConnectionPool, Server, Socket};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const CLIENTS: usize = 8;

/// Serves the model while clients ask for every row, and shuts down. Returns how many answers were right.
pub async fn serve_and_ask(model: Model, questions: Vec<(String, usize)>) -> Result<usize> {
    let server = Server::bind("127.0.0.1:0").await?.max_connections(100).read_timeout(Duration::from_secs(5));
    let (address, shutdown) = (server.local_addr()?, server.shutdown_handle());
    println!("serving at {address}");
    let model = Arc::new(model);
    let serving = tokio::spawn(server.serve(move |socket| answer(socket, model.clone())));

    // Half as many connections as clients: they wait for one another.
    let pool = ConnectionPool::builder(address.to_string()).max_size(CLIENTS / 2).min_idle(1).build()?;
    let right = {
        let pool = pool.clone();
        let asking = tokio::task::spawn_blocking(move || ask_all(&pool, &questions));
        asking.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?
    };
    let stats = pool.stats();
    println!("{} connections were made for {CLIENTS} clients", stats.connects);
    pool.close().await;
    shutdown.shutdown();
    let served = serving.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    println!(
        "served {} connections, {} failed, {} were cut off",
        served.accepted, served.failed, served.aborted
    );
    Ok(right)
}

async fn answer(socket: Socket, model: Arc<Model>) -> Result<()> {
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while socket.read_line(&mut line).await? > 0 {
        let row: std::result::Result<Vec<f32>, _> = line.trim().split(',').map(str::parse).collect();
        let answer = match row {
            Ok(row) if row.len() == model.features() => {
                let (class, probability) = model.predict(&row)?;
                format!("{class} {probability:.3}\n")
            }
            _ => format!("error: {} numbers with commas between them are wanted\n", model.features()),
        };
        socket.get_mut().write_all(answer.as_bytes()).await?;
        line.clear();
        if socket.get_ref().is_shutting_down() {
            break;
        }
    }
    Ok(())
}

/// On threads that know nothing of async: a connection each time, blocking until one is free.
fn ask_all<'env>(pool: &'env ConnectionPool, questions: &'env [(String, usize)]) -> Result<usize> {
    let right = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let ask = |part: &'env [(String, usize)]| {
            let right = &right;
            scope.spawn(move || -> Result<()> {
                for (row, class) in part {
                    let mut connection = pool.get()?;
                    connection.write_all(format!("{row}\n").as_bytes())?;
                    let mut answer = Vec::new();
                    while answer.last() != Some(&b'\n') {
                        let mut byte = [0];
                        connection.read_exact(&mut byte)?;
                        answer.push(byte[0]);
                    }
                    if answer.starts_with(format!("{class} ").as_bytes()) {
                        right.fetch_add(1, Relaxed);
                    }
                }
                Ok(())
            })
        };
        let threads: Vec<_> = questions.chunks(questions.len().div_ceil(CLIENTS)).map(ask).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(right.into_inner())
}
