//! How the orders of a database are followed: by the number that it gave to each when it was inserted.
//!
//! SQLite has one writer at a time, and numbers are seen in their order. On a server a number is seen once its
//! transaction is committed, maybe after higher ones, by any host: a gap below an order is held open until that
//! order was inserted [`OPEN_MINUTES`] ago by the server's own clock. No host's clock is asked.

use anyhow::Context;

use super::database::Database;
use super::entry::{ORDER_COLUMNS, read_order};
use super::session::{Columns, Value};
use super::statement::{limited, not_ours, rows};
use crate::order::OrderId;
use crate::settings::Engine;
use crate::store::numbered::{Numbered, Reading};
use crate::store::{FollowError, Followed, Position};

/// How long a transaction may be open: ours are given up after 12 s, but a COMMIT may be delayed on its way by a
/// network for minutes, and on the server by its disk. Gaps are rare (an order that was refused, a server that
/// crashed); while one is open, what is above it is shown again.
const OPEN_MINUTES: u32 = 15;

/// Where numbers are, and which of them nothing open is below.
struct Words {
    /// The table with numbers and ids.
    sequence: &'static str,
    /// Its column with the id.
    id: &'static str,
    /// The tables with numbers and orders.
    joined: &'static str,
    /// Whether every transaction with a lower number has ended.
    closed: String,
}

impl Words {
    fn of(engine: Engine) -> Self {
        let of_server = |closed| Self {
            sequence: "orders",
            id: "id",
            joined: "orders",
            closed,
        };
        match engine {
            Engine::Sqlite => Self {
                sequence: "orders_sequence",
                id: "order_id",
                joined: "orders_sequence JOIN orders ON orders.id = orders_sequence.order_id",
                closed: "1 = 1".to_owned(),
            },
            // Sessions are in UTC, as sqlx makes them.
            Engine::MySql => of_server(format!(
                "stored_at < CURRENT_TIMESTAMP(6) - INTERVAL {OPEN_MINUTES} MINUTE"
            )),
            Engine::Postgres => of_server(format!(
                "stored_at < clock_timestamp() - INTERVAL '{OPEN_MINUTES} minutes'"
            )),
        }
    }
}

/// The number and id in the first row that a statement finds.
async fn found(
    database: &Database,
    what: &'static str,
    sql: &str,
    values: &[Value<'_>],
) -> anyhow::Result<Option<(u64, OrderId)>> {
    let rows = rows(database, what, sql, values).await?;
    let read = |row: &dyn Columns| -> sqlx::Result<(u64, OrderId)> {
        let number = row.number(0)?.try_into().map_err(not_ours)?;
        Ok((number, row.text(1)?.parse().map_err(not_ours)?))
    };
    let first = rows.first().map(|row| read(&**row)).transpose();
    first.context(what)
}

/// Where a follower begins: behind everything below which nothing is open.
pub(super) async fn end(database: &Database) -> anyhow::Result<Position> {
    let words = Words::of(database.engine);
    let sql = format!(
        "SELECT seq, {} FROM {} WHERE {} ORDER BY seq DESC LIMIT 1",
        words.id, words.sequence, words.closed
    );
    let last = found(database, "look for the last order", &sql, &[]).await?;
    Ok(
        last.map_or(Position::BEGINNING, |(settled, last)| Position::Numbered {
            settled,
            last: Some(last),
            read: settled,
        }),
    )
}

/// Orders from `from` on, at most `limit`.
pub(super) async fn follow(
    database: &Database,
    from: &Position,
    limit: usize,
) -> Result<Followed, FollowError> {
    let reading = Reading::from(from)?;
    // A number that no column holds is above all that are there.
    let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let words = Words::of(database.engine);
    if reading.last.is_some() {
        let sql = format!(
            "SELECT seq, {} FROM {} WHERE seq >= ? ORDER BY seq LIMIT 1",
            words.id, words.sequence
        );
        let values = [number(reading.settled)];
        reading.check(found(database, "look for a position", &sql, &values).await?)?;
    }
    let what = "follow orders";
    let whole = match database.engine {
        Engine::MySql => "SIGNED",
        Engine::Sqlite | Engine::Postgres => "BIGINT",
    };
    let sql = format!(
        "SELECT {ORDER_COLUMNS}, seq, CAST(CASE WHEN {} THEN 1 ELSE 0 END AS {whole}) \
         FROM {} WHERE seq > ? ORDER BY seq LIMIT ?",
        words.closed, words.joined
    );
    let values = [number(reading.read), limited(limit)];
    let rows = rows(database, what, &sql, &values).await?;
    let orders: sqlx::Result<Vec<Numbered>> = rows
        .iter()
        .map(|row| {
            Ok(Numbered {
                number: row.number(7)?.try_into().map_err(not_ours)?,
                closed: row.number(8)? == 1,
                order: read_order(&**row)?,
            })
        })
        .collect();
    let orders = orders.context(what)?;
    let at_end = orders.len() < limit;
    Ok(reading.show(orders, at_end))
}
