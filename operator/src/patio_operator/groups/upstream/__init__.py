"""Who realises RoleBasedGroups: upstream's controller where there is one (*observe*), else Patio (*manage*).

`detection` (pure) decides from what the cluster shows, `detector` keeps looking. Every replica looks for itself, since
admission has to know it too and must not depend on which replica leads.
"""
