#!/usr/bin/env bash
# Sets up the shop's fleet, once, with the AWS CLI: bucket, target group and listener, launch template, SSH key, Auto
# Scaling group, then the two lifecycle hooks. The first instances run the plain source image, which `roll` replaces.
# Usage: fleet.sh SOURCE_AMI [SIZE]
set -euo pipefail
cd "$(dirname "$0")"
source_ami=$1 size=${2:-2}
text=(--output text --query)

aws s3api create-bucket --bucket shop-orders >/dev/null

vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true "${text[@]}" 'Vpcs[0].VpcId')
subnets=$(aws ec2 describe-subnets --filters "Name=vpc-id,Values=$vpc" "${text[@]}" 'Subnets[].SubnetId')
target_group=$(aws elbv2 create-target-group --name shop --protocol HTTP --port 8080 --vpc-id "$vpc" \
  --health-check-path /gtg --health-check-interval-seconds 5 --health-check-timeout-seconds 4 \
  --healthy-threshold-count 2 --unhealthy-threshold-count 3 "${text[@]}" 'TargetGroups[0].TargetGroupArn')
aws elbv2 modify-target-group-attributes --target-group-arn "$target_group" \
  --attributes Key=deregistration_delay.timeout_seconds,Value=5 >/dev/null
# shellcheck disable=SC2086  # one argument a subnet
balancer=$(aws elbv2 create-load-balancer --name shop --subnets $subnets "${text[@]}" 'LoadBalancers[0].LoadBalancerArn')
aws elbv2 create-listener --load-balancer-arn "$balancer" --protocol HTTP --port 8080 \
  --default-actions "Type=forward,TargetGroupArn=$target_group" >/dev/null

# To log in: `ssh -i shop.key admin@ADDRESS`.
[ -e shop.key ] || ssh-keygen -q -t ed25519 -N '' -C shop -f shop.key
aws ec2 import-key-pair --key-name shop --public-key-material fileb://shop.key.pub >/dev/null

# The role of the instances of the fleet and of the gate; its policy is in docs/agent.md.
aws iam create-role --role-name shop --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}' >/dev/null
aws iam create-instance-profile --instance-profile-name shop >/dev/null
aws iam add-role-to-instance-profile --instance-profile-name shop --role-name shop

aws ec2 create-launch-template --launch-template-name shop --launch-template-data "{
  \"ImageId\": \"$source_ami\", \"InstanceType\": \"t3.micro\", \"KeyName\": \"shop\",
  \"IamInstanceProfile\": {\"Name\": \"shop\"},
  \"MetadataOptions\": {\"HttpTokens\": \"required\"},
  \"UserData\": \"$(base64 -w0 user-data.toml)\"}" >/dev/null

aws autoscaling create-auto-scaling-group --auto-scaling-group-name shop \
  --launch-template 'LaunchTemplateName=shop,Version=1' --min-size "$size" --max-size $((size * 2)) --desired-capacity "$size" \
  --vpc-zone-identifier "$(tr -s '[:space:]' , <<<"$subnets" | sed 's/,$//')" --target-group-arns "$target_group"

# Created after the first launch: the first instances have no agent to complete a hook.
until [ "$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names shop "${text[@]}" \
  'length(AutoScalingGroups[0].Instances[?LifecycleState==`InService`])')" = "$size" ]; do :; done
aws autoscaling put-lifecycle-hook --auto-scaling-group-name shop --lifecycle-hook-name launch \
  --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING --heartbeat-timeout 600 --default-result ABANDON
aws autoscaling put-lifecycle-hook --auto-scaling-group-name shop --lifecycle-hook-name terminate \
  --lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 30 --default-result CONTINUE
aws elbv2 describe-load-balancers --load-balancer-arns "$balancer" "${text[@]}" 'LoadBalancers[0].DNSName'
