# What `packer init` installs for a current Packer. Packer 1.6.6 has the Amazon builder built in and must not see this.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.8"
    }
  }
}
