//! Follows the orders of a database by the number that it assigned to each at insertion.
//!
//! SQLite has one writer at a time, so numbers appear in order. On a server a number appears when its
//! transaction commits, possibly after higher ones: a gap below an order stays open until that order was
//! inserted [`OPEN_MINUTES`] ago by the server's clock. No host's clock is used.

use anyhow::Context;

use super::database::Database;
use super::entry::{ORDER_COLUMNS, read_order};
use super::session::{Columns, Value};
use super::statement::{decode_error, limited, rows};
use crate::order::OrderId;
use crate::settings::Engine;
use crate::store::numbered::{Numbered, NumberedPoll};
use crate::store::{FollowError, Followed, Position};

/// How long a transaction may be open. Ours are given up after 12 s, but the network or the server's disk may
/// delay a COMMIT for minutes. Gaps are rare (a refused order, a server crash); while one is open, the orders
/// above it are returned again.
const OPEN_MINUTES: u32 = 15;

/// The parts of the statements that differ between engines.
struct SequenceSql {
    /// The table with numbers and ids.
    sequence: &'static str,
    /// Its id column.
    id: &'static str,
    /// The join of numbers and orders.
    joined: &'static str,
    /// Condition: every transaction with a lower number has ended.
    closed: String,
}

impl SequenceSql {
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
            // sqlx sets sessions to UTC.
            Engine::MySql => of_server(format!(
                "stored_at < CURRENT_TIMESTAMP(6) - INTERVAL {OPEN_MINUTES} MINUTE"
            )),
            Engine::Postgres => of_server(format!(
                "stored_at < clock_timestamp() - INTERVAL '{OPEN_MINUTES} minutes'"
            )),
        }
    }
}

/// The number and id in the first row of a result.
async fn found(
    database: &Database,
    what: &'static str,
    sql: &str,
    values: &[Value<'_>],
) -> anyhow::Result<Option<(u64, OrderId)>> {
    let rows = rows(database, what, sql, values).await?;
    let read = |row: &dyn Columns| -> sqlx::Result<(u64, OrderId)> {
        let number = row.number(0)?.try_into().map_err(decode_error)?;
        Ok((number, row.text(1)?.parse().map_err(decode_error)?))
    };
    let first = rows.first().map(|row| read(&**row)).transpose();
    first.context(what)
}

/// The position after the last order below which no transaction is open.
pub(super) async fn end(database: &Database) -> anyhow::Result<Position> {
    let sql_parts = SequenceSql::of(database.engine);
    let sql = format!(
        "SELECT seq, {} FROM {} WHERE {} ORDER BY seq DESC LIMIT 1",
        sql_parts.id, sql_parts.sequence, sql_parts.closed
    );
    let last = found(database, "read the last order", &sql, &[]).await?;
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
    let poll = NumberedPoll::from(from)?;
    // A number that does not fit the column is above all stored ones.
    let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let sql_parts = SequenceSql::of(database.engine);
    if poll.last.is_some() {
        let sql = format!(
            "SELECT seq, {} FROM {} WHERE seq >= ? ORDER BY seq LIMIT 1",
            sql_parts.id, sql_parts.sequence
        );
        let values = [number(poll.settled)];
        poll.check(found(database, "read a position", &sql, &values).await?)?;
    }
    let what = "follow orders";
    let whole = match database.engine {
        Engine::MySql => "SIGNED",
        Engine::Sqlite | Engine::Postgres => "BIGINT",
    };
    let sql = format!(
        "SELECT {ORDER_COLUMNS}, seq, CAST(CASE WHEN {} THEN 1 ELSE 0 END AS {whole}) \
         FROM {} WHERE seq > ? ORDER BY seq LIMIT ?",
        sql_parts.closed, sql_parts.joined
    );
    let values = [number(poll.read), limited(limit)];
    let rows = rows(database, what, &sql, &values).await?;
    let orders: sqlx::Result<Vec<Numbered>> = rows
        .iter()
        .map(|row| {
            Ok(Numbered {
                number: row.number(7)?.try_into().map_err(decode_error)?,
                closed: row.number(8)? == 1,
                order: read_order(&**row)?,
            })
        })
        .collect();
    let orders = orders.context(what)?;
    let at_end = orders.len() < limit;
    Ok(poll.show(orders, at_end))
}
