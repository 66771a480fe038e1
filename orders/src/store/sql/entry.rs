//! The rows of an entry: inserts an order, its claim and its notice in one transaction, and reads an order.

use jiff::Timestamp;

use super::database::Database;
use super::session::{Columns, Session, Value};
use super::statement::decode_error;
use crate::order::Order;
use crate::store::{Entry, Kept};

/// The columns of an order, in the order that `read_order` expects.
pub(super) const ORDER_COLUMNS: &str = "id, received_at, account, name, address, flower, extra";

/// The result of storing an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Kept(Kept),
    Exists,
    KeyReused,
}

impl Outcome {
    /// The statement that ends its transaction: a refused entry must leave no claim.
    pub(super) fn end(self) -> &'static str {
        match self {
            Self::Kept(_) => "COMMIT",
            Self::Exists | Self::KeyReused => "ROLLBACK",
        }
    }
}

/// Stores the entry in the current transaction.
pub(super) async fn keep(
    database: &Database,
    session: &mut dyn Session,
    entry: &Entry,
) -> sqlx::Result<Outcome> {
    let order = &entry.order;
    let id = order.id.to_string();
    if let Some(claim) = &entry.claim {
        let made = database
            .insert(
                session,
                "INSERT INTO claims (claim_key, fingerprint, order_id, made_at) VALUES (?, ?, ?, ?)",
                &[
                    Value::Bytes(&claim.key),
                    Value::Bytes(&claim.fingerprint),
                    Value::Text(&id),
                    Value::Number(Timestamp::now().as_second()),
                ],
            )
            .await?;
        if !made {
            let rows = session
                .rows(
                    "SELECT fingerprint, order_id FROM claims WHERE claim_key = ?",
                    &[Value::Bytes(&claim.key)],
                )
                .await?;
            // It may have been purged in between; the next attempt can insert it.
            let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
            if row.bytes(0)? != claim.fingerprint {
                return Ok(Outcome::KeyReused);
            }
            let holder = row.text(1)?;
            if holder != id {
                let holder = holder.parse().map_err(decode_error)?;
                return Ok(Outcome::Kept(Kept::Before(holder)));
            }
        }
    }
    let extra = order.extra_row().map_err(decode_error)?;
    let account = order.account.map(|account| account.to_string());
    let inserted = database
        .insert(
            session,
            "INSERT INTO orders (id, received_at, account, name, address, flower, extra) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            &[
                Value::Text(&id),
                Value::Text(&order.received_at.to_string()),
                Value::MaybeText(account.as_deref()),
                Value::Text(&order.name),
                Value::Text(&order.address),
                Value::Text(&order.flower),
                Value::Text(&extra),
            ],
        )
        .await?;
    if !inserted {
        let same = read(session, &id).await?.as_ref() == Some(order);
        return Ok(if same {
            Outcome::Kept(Kept::Now)
        } else {
            Outcome::Exists
        });
    }
    if entry.notice {
        database
            .insert(
                session,
                "INSERT INTO notices (order_id) VALUES (?)",
                &[Value::Text(&id)],
            )
            .await?;
    }
    Ok(Outcome::Kept(Kept::Now))
}

async fn read(session: &mut dyn Session, id: &str) -> sqlx::Result<Option<Order>> {
    let sql = format!("SELECT {ORDER_COLUMNS} FROM orders WHERE id = ?");
    let rows = session.rows(&sql, &[Value::Text(id)]).await?;
    rows.first().map(|row| read_order(&**row)).transpose()
}

/// An order from its columns.
pub(super) fn read_order(row: &dyn Columns) -> sqlx::Result<Order> {
    let account = row.maybe_text(2)?;
    Ok(Order {
        id: row.text(0)?.parse().map_err(decode_error)?,
        received_at: row.text(1)?.parse().map_err(decode_error)?,
        account: account
            .map(|account| account.parse().map_err(decode_error))
            .transpose()?,
        name: row.text(3)?,
        address: row.text(4)?,
        flower: row.text(5)?,
        extra: serde_json::from_str(&row.text(6)?).map_err(decode_error)?,
        receipt: None,
    }
    .with_its_receipt())
}
