"""Early warning: reward hacks looked for in the rollout log while a policy trains."""
