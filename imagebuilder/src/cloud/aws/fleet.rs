//! Auto Scaling, launch templates and ELBv2.

use crate::cloud::Fleet;

pub(super) struct AwsFleet {}

impl AwsFleet {
    pub(super) fn new(_config: &aws_config::SdkConfig, _ec2: aws_sdk_ec2::Client) -> Self {
        Self {}
    }
}

impl Fleet for AwsFleet {}
