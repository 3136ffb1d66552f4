"""ModelEndpoints: a whole model in one object, realised as a RoleBasedGroup and scaled with its demand."""
