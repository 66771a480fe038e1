//! Candidates in a DynamoDB table with the single key `CandidateName`, as in the candidate service.
//!
//! Uses only what the role of that service allows: `PutItem`, `Query`, `Scan`.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Candidates, Names, PAGE};
use crate::aws::Aws;
use crate::aws::table::{Table, text};

const KEY: &str = "CandidateName";

/// Candidates in a table.
#[derive(Debug)]
pub struct DynamoDbCandidates {
    table: Table,
}

impl DynamoDbCandidates {
    /// Candidates in `table`.
    #[must_use]
    pub fn new(table: String, aws: Aws) -> Self {
        Self {
            table: Table::new(table, aws),
        }
    }

    async fn call(&self, action: &str, body: Value) -> anyhow::Result<Value> {
        let answer = self.table.call(action, body).await;
        answer.map_err(|error| self.table.explain(action, error))
    }
}

#[async_trait]
impl Candidates for DynamoDbCandidates {
    async fn put(&self, name: &str) -> anyhow::Result<()> {
        self.call("PutItem", json!({ "Item": { KEY: { "S": name } } }))
            .await?;
        Ok(())
    }

    async fn has(&self, name: &str) -> anyhow::Result<bool> {
        let body = json!({
            "KeyConditionExpression": format!("{KEY} = :name"),
            "ExpressionAttributeValues": { ":name": { "S": name } },
            "ConsistentRead": true,
        });
        let answer = self.call("Query", body).await?;
        Ok(answer["Items"]
            .as_array()
            .is_some_and(|items| !items.is_empty()))
    }

    async fn page(&self, after: Option<&str>) -> anyhow::Result<Names> {
        let mut body = json!({ "ConsistentRead": true, "Limit": PAGE });
        if let Some(after) = after {
            body["ExclusiveStartKey"] = json!({ KEY: { "S": after } });
        }
        let answer = self.call("Scan", body).await?;
        let items = answer["Items"].as_array().into_iter().flatten();
        let names = items.map(|item| text(item, KEY).to_owned()).collect();
        let next = answer.get("LastEvaluatedKey").map(|last| text(last, KEY));
        let next = next.filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(Names { names, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidates::all;
    use crate::moto::Moto;

    #[tokio::test]
    async fn names_are_stored_once_and_listed_over_pages() {
        let moto = Moto::start();
        moto.make_table("Candidates", &[KEY]).await;
        let aws = Aws::new(Moto::settings(&moto.endpoint));
        let open = || DynamoDbCandidates::new("Candidates".into(), aws.clone());
        let candidates = open();
        assert_eq!(all(&candidates).await, Vec::<String>::new());
        assert!(!candidates.has("John Smith").await.unwrap());
        candidates.put("John Smith").await.unwrap();
        candidates.put("John Smith").await.unwrap();
        assert!(open().has("John Smith").await.unwrap());
        assert!(!open().has("John").await.unwrap());
        // More than one page holds.
        let mut names: Vec<String> = (0..600)
            .map(|n| format!("{n:04}{}", "é".repeat(1000)))
            .collect();
        for name in &names {
            candidates.put(name).await.unwrap();
        }
        names.push("John Smith".to_owned());
        let mut found = all(&open()).await;
        found.sort();
        assert_eq!(found, names);
        // Longer than a key may be.
        assert!(candidates.put(&"x".repeat(2049)).await.is_err());
    }
}
