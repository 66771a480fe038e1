//! An SNS topic, called by the query protocol.

use anyhow::Context;
use async_trait::async_trait;

use super::{Notice, Topic};
use crate::aws::{Aws, FORM, SNS};

/// An SNS topic.
#[derive(Debug)]
pub struct SnsTopic {
    arn: String,
    aws: Aws,
}

impl SnsTopic {
    /// The topic with this ARN.
    #[must_use]
    pub fn new(arn: String, aws: Aws) -> Self {
        Self { arn, aws }
    }

    /// The request body. <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>
    fn publish(&self, notice: &Notice) -> anyhow::Result<String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", "Publish")
            .append_pair("Version", "2010-03-31")
            .append_pair("TopicArn", &self.arn)
            .append_pair("Message", &serde_json::to_string(notice)?)
            // Lets a subscriber recognise a second notice of the same order.
            .append_pair("MessageAttributes.entry.1.Name", "order_id")
            .append_pair("MessageAttributes.entry.1.Value.DataType", "String")
            .append_pair(
                "MessageAttributes.entry.1.Value.StringValue",
                &notice.id.to_string(),
            );
        Ok(form.finish())
    }
}

#[async_trait]
impl Topic for SnsTopic {
    async fn send(&self, notice: &Notice) -> anyhow::Result<()> {
        // The topic's region, not ours: arn:aws:sns:region:account:name.
        let region = self.arn.split(':').nth(3);
        let body = self.publish(notice)?;
        self.aws
            .call(&SNS, region, &[("content-type", FORM)], body.into())
            .await
            .with_context(|| {
                format!(
                    "Publish to {}\nhint: allow the role sns:Publish on it",
                    self.arn
                )
            })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moto::Moto;
    use crate::store::contract;

    #[tokio::test]
    async fn a_subscriber_gets_the_notice_and_the_order_id() {
        let moto = Moto::start();
        let topic = "arn:aws:sns:eu-north-1:123456789012:notices";
        let queue = "arn:aws:sqs:eu-north-1:123456789012:subscriber";
        moto.ask("sns", "Action=CreateTopic&Version=2010-03-31&Name=notices")
            .await;
        moto.ask(
            "sqs",
            "Action=CreateQueue&Version=2012-11-05&QueueName=subscriber",
        )
        .await;
        let subscribe = format!(
            "Action=Subscribe&Version=2010-03-31&TopicArn={topic}&Protocol=sqs&Endpoint={queue}\
             &Attributes.entry.1.key=RawMessageDelivery&Attributes.entry.1.value=true"
        );
        moto.ask("sns", &subscribe).await;
        // Our region differs from the topic's, which must be used.
        let aws = Aws::new(crate::settings::AwsSettings::from_variables(
            [
                ("AWS_ENDPOINT_URL", moto.endpoint.as_str()),
                ("AWS_REGION", "ca-central-1"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ));
        let notice = Notice::from(&contract::order("Ada"));
        SnsTopic::new(topic.to_owned(), aws.clone())
            .send(&notice)
            .await
            .unwrap();
        let receive = format!(
            "Action=ReceiveMessage&Version=2012-11-05&MessageAttributeName.1=All\
             &QueueUrl={}/123456789012/subscriber",
            moto.endpoint
        );
        let answer = moto.ask("sqs", &receive).await.replace("&quot;", "\"");
        let body = serde_json::to_string(&notice).unwrap();
        assert!(answer.contains(&format!("<Body>{body}</Body>")), "{answer}");
        assert!(answer.contains("<Name>order_id</Name>"), "{answer}");
        let id = format!("<StringValue>{}</StringValue>", notice.id);
        assert!(answer.contains(&id), "{answer}");

        let missing = SnsTopic::new(format!("{topic}-missing"), aws);
        let error = format!("{:#}", missing.send(&notice).await.unwrap_err());
        assert!(error.contains("sns:Publish"), "{error}");
        assert!(error.contains("NotFound"), "{error}");
    }
}
