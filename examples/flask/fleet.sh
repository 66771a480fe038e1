#!/usr/bin/env bash
# Sets up a fleet for the recipe flask, once, with the AWS CLI: target group and listener on port 5000, role, SSH key, launch template,
# Auto Scaling group with both hooks. Its first instances run the plain source image, which `roll` replaces.
# Usage: fleet.sh SOURCE_AMI [SIZE]. Prints the listener's name.
set -euo pipefail
source_ami=$1 size=${2:-1}
text=(--output text --query)

vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true "${text[@]}" 'Vpcs[0].VpcId')
subnets=$(aws ec2 describe-subnets --filters "Name=vpc-id,Values=$vpc" "${text[@]}" 'Subnets[].SubnetId')
target_group=$(aws elbv2 create-target-group --name flask --protocol HTTP --port 5000 --vpc-id "$vpc" \
  --health-check-path /gtg --health-check-interval-seconds 5 --health-check-timeout-seconds 4 \
  --healthy-threshold-count 2 --unhealthy-threshold-count 3 "${text[@]}" 'TargetGroups[0].TargetGroupArn')
aws elbv2 modify-target-group-attributes --target-group-arn "$target_group" \
  --attributes Key=deregistration_delay.timeout_seconds,Value=5 >/dev/null
# shellcheck disable=SC2086  # one argument a subnet
balancer=$(aws elbv2 create-load-balancer --name flask --subnets $subnets "${text[@]}" 'LoadBalancers[0].LoadBalancerArn')
aws elbv2 create-listener --load-balancer-arn "$balancer" --protocol HTTP --port 5000 \
  --default-actions "Type=forward,TargetGroupArn=$target_group" >/dev/null

# To log in: `ssh -i flask.key admin@ADDRESS`.
[ -e flask.key ] || ssh-keygen -q -t ed25519 -N '' -C flask -f flask.key
aws ec2 import-key-pair --key-name flask --public-key-material fileb://flask.key.pub >/dev/null

# The role of the instances of the fleet and of the gate; its policy is in docs/agent.md.
aws iam create-role --role-name flask --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}' >/dev/null
aws iam create-instance-profile --instance-profile-name flask >/dev/null
aws iam add-role-to-instance-profile --instance-profile-name flask --role-name flask

aws ec2 create-launch-template --launch-template-name flask --launch-template-data "{
  \"ImageId\": \"$source_ami\", \"InstanceType\": \"t3.micro\", \"KeyName\": \"flask\",
  \"IamInstanceProfile\": {\"Name\": \"flask\"},
  \"MetadataOptions\": {\"HttpTokens\": \"required\"}}" >/dev/null

aws autoscaling create-auto-scaling-group --auto-scaling-group-name flask \
  --launch-template 'LaunchTemplateName=flask,Version=1' --min-size "$size" --max-size $((size * 2)) --desired-capacity "$size" \
  --vpc-zone-identifier "$(tr -s '[:space:]' , <<<"$subnets" | sed 's/,$//')" --target-group-arns "$target_group"
# Created after the first launch: the first instances have no agent to complete a hook.
until [ "$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names flask "${text[@]}" \
  'length(AutoScalingGroups[0].Instances[?LifecycleState==`InService`])')" = "$size" ]; do sleep 1; done
aws autoscaling put-lifecycle-hook --auto-scaling-group-name flask --lifecycle-hook-name launch \
  --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING --heartbeat-timeout 600 --default-result ABANDON
aws autoscaling put-lifecycle-hook --auto-scaling-group-name flask --lifecycle-hook-name terminate \
  --lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 30 --default-result CONTINUE
aws elbv2 describe-load-balancers --load-balancer-arns "$balancer" "${text[@]}" 'LoadBalancers[0].DNSName'
