{{/*
Names are fixed, not made from the release's: what Patio installs is cluster-wide, so a second release in the cluster
must be rejected, and manifests and documentation can name what they mean.
*/}}

{{- define "patio.selector" -}}
app.kubernetes.io/name: patio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The labels that every object has. Those of the chart win. */}}
{{- define "patio.labels" -}}
{{- with .Values.commonLabels }}
{{- toYaml . }}
{{ end -}}
app.kubernetes.io/name: patio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: patio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels and annotations of an object: (list $ labels annotations), of which the last two are its own and win. */}}
{{- define "patio.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- toYaml (mergeOverwrite (include "patio.labels" $root | fromYaml) (index . 1)) | nindent 2 }}
{{- with mergeOverwrite (deepCopy ($root.Values.commonAnnotations | default dict)) (index . 2) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The labels by which Kubernetes adds a ClusterRole to its own roles: (list $ names of the roles) */}}
{{- define "patio.aggregation" -}}
{{- if (first .).Values.rbac.aggregate -}}
{{- range rest . }}
rbac.authorization.k8s.io/aggregate-to-{{ . }}: "true"
{{- end }}
{{- end }}
{{- end }}

{{/* groups.mode; YAML reads an off without quotes as false. */}}
{{- define "patio.mode" -}}
{{ ternary "off" .Values.groups.mode (eq (toString .Values.groups.mode) "false") }}
{{- end }}

{{/* The reference of an image: (list $ .Values.operator.image "operator"). The chart of a release has the digests of its images as
annotations; a tag or a digest among the values replaces them. */}}
{{- define "patio.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with $root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- $first := first $parts -}}
{{- if and (gt (len $parts) 1) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $parts = rest $parts -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) -}}
{{- end -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else if contains "@" $repository -}}
{{ $repository }}
{{- else if $image.tag -}}
{{ $repository }}:{{ $image.tag }}
{{- else -}}
{{- with index ($root.Chart.Annotations | default dict) (printf "patio.dev/%s-digest" (index . 2)) -}}
{{ $repository }}@{{ . }}
{{- else -}}
{{ $repository }}:{{ $root.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{/* The pull secrets of pods of the chart, as a list of objects. */}}
{{- define "patio.pullSecrets" -}}
{{- $names := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets -}}
{{- if kindIs "string" . }}{{ $names = append $names . }}{{ else }}{{ $names = append $names .name }}{{ end -}}
{{- end -}}
{{- range $names | uniq }}
- name: {{ . }}
{{- end }}
{{- end }}

{{/* The security context of pods of the chart, from that of the operator's container: (list $ fsGroup), where fsGroup says whether
volumes belong to the group. Numbers of a values file are floats, and a user of OpenShift would be written as 1.00066e+09. */}}
{{- define "patio.podSecurityContext" -}}
{{- $withGroup := index . 1 -}}
{{- with (index . 0).Values.operator.securityContext -}}
runAsNonRoot: {{ .runAsNonRoot }}
{{- if .runAsUser }}
runAsUser: {{ int64 .runAsUser }}
{{- end }}
{{- if .runAsGroup }}
runAsGroup: {{ int64 .runAsGroup }}
{{- if $withGroup }}
fsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- end }}
{{- with .seccompProfile }}
seccompProfile:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The pod of a hook: (list $ name arguments). It runs a module of the operator's image as a service account of that name. */}}
{{- define "patio.hookPod" -}}
{{- $root := index . 0 -}}
metadata:
  labels:
    {{- include "patio.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 | trimPrefix "patio-" }}
    {{- /* A service mesh reads labels and annotations: a proxy in the pod would keep the Job from ending. */}}
    {{- with $root.Values.operator.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.operator.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ index . 1 }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  restartPolicy: Never
  securityContext:
    {{- include "patio.podSecurityContext" (list $root false) | nindent 4 }}
  {{- with include "patio.pullSecrets" $root }}
  imagePullSecrets:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.operator.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.operator.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- /* The rest of the affinity is about the operator's pods. */}}
  {{- with ($root.Values.operator.affinity | default dict).nodeAffinity }}
  affinity:
    nodeAffinity:
      {{- toYaml . | nindent 6 }}
  {{- end }}
  containers:
    - name: {{ index . 1 | trimPrefix "patio-" }}
      image: {{ include "patio.image" (list $root $root.Values.operator.image "operator") | quote }}
      imagePullPolicy: {{ $root.Values.operator.image.pullPolicy }}
      command: [python, -m]
      args: {{ index . 2 | toJson }}
      resources:
        {{- toYaml $root.Values.operator.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.operator.securityContext | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 8Mi}
{{- end }}

{{/* What reaches the API server, as a list of one rule of a NetworkPolicy. */}}
{{- define "patio.apiServerEgress" -}}
- ports:
    {{- range .Values.networkPolicy.egress.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.egress.apiServerCIDRs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
{{- end }}

{{/* The NetworkPolicy of a hook's pod: (list $ name event). Where another policy denies all traffic of the namespace, the hook still
reaches the API server. Nothing without networkPolicy.egress.enabled. */}}
{{- define "patio.hookNetworkPolicy" -}}
{{- $root := index . 0 -}}
{{- if and $root.Values.networkPolicy.enabled $root.Values.networkPolicy.egress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  {{- include "patio.metadata" (list $root dict (include "patio.hook" (list (index . 2) "-1") | fromYaml)) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: patio
      app.kubernetes.io/instance: {{ $root.Release.Name }}
      app.kubernetes.io/component: {{ index . 1 | trimPrefix "patio-" }}
  policyTypes: [Ingress, Egress]
  egress:
    {{- include "patio.apiServerEgress" $root | nindent 4 }}
{{- end }}
{{- end }}

{{/* Annotations of a hook: (list event weight). Its objects are gone when it has succeeded. */}}
{{- define "patio.hook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* What no schema can say: values that exclude each other, and names that are the chart's own. Prints nothing. */}}
{{- define "patio.checks" -}}
{{- /* Sections come before what is in them. `helm upgrade --reuse-values` takes the values of the older chart, which lack what is new. */}}
{{- $needed := list "global" "crds" "serviceAccount" "serviceAccount.name" "rbac" "operator" "operator.image" "operator.image.repository" }}
{{- $needed = concat $needed (list "operator.hostNetwork" "operator.metrics" "operator.metrics.port" "operator.readinessProbe" "operator.livenessProbe" "operator.startupProbe") }}
{{- $needed = concat $needed (list "groups" "sidecar" "sidecar.image" "sidecar.image.repository" "sidecar.extraArgs" "profile") }}
{{- $needed = concat $needed (list "access" "access.enforced" "adapters" "adapters.secrets" "webhook" "webhook.excludedNamespaces") }}
{{- $needed = concat $needed (list "webhook.namespaceSelector" "webhook.objectSelector" "webhook.certificate" "webhook.certManager") }}
{{- $needed = concat $needed (list "networkPolicy" "networkPolicy.egress" "test" "test.profile" "monitoring" "monitoring.rules") }}
{{- $needed = concat $needed (list "monitoring.rules.extraLabels" "monitoring.rules.dashboardUrl" "monitoring.rules.runbookUrl") }}
{{- $needed = concat $needed (list "monitoring.dashboards" "monitoring.dashboards.labels" "monitoring.dashboards.annotations") }}
{{- $needed = concat $needed (list "monitoring.dashboards.label" "monitoring.dashboards.folderAnnotation" "monitoring.dashboards.grafanaOperator") }}
{{- range $path := $needed }}
{{- $value := $.Values }}
{{- range splitList "." $path }}
{{- $value = index $value . }}
{{- end }}
{{- if kindIs "invalid" $value }}
{{- fail (printf "%s has no value: leave it out for the default, and upgrade with --reset-then-reuse-values instead of --reuse-values" $path) }}
{{- end }}
{{- end }}
{{- $ports := dict "webhook.securePort" (int .Values.webhook.securePort) "operator.healthPort" (int .Values.operator.healthPort) }}
{{- if .Values.operator.metrics.secure }}
{{- $_ := set $ports "operator.metrics.port" (int .Values.operator.metrics.port) }}
{{- end }}
{{- if ne (len (values $ports | uniq)) (len $ports) }}
{{- fail (printf "%s: give each another port" (keys $ports | sortAlpha | join ", ")) }}
{{- end }}
{{- if and .Values.watchNamespaces (eq (include "patio.mode" .) "auto") }}
{{- fail "watchNamespaces: say in groups.mode who realises RoleBasedGroups (manage, observe or off): upstream's controller is not looked for" }}
{{- end }}
{{- if and .Values.watchNamespaces (has "*" .Values.adapters.secrets.namespaces) }}
{{- fail "adapters.secrets.namespaces: name them where there are watchNamespaces" }}
{{- end }}
{{- range $where, $labels := dict "commonLabels" .Values.commonLabels "operator.podLabels" .Values.operator.podLabels "serviceAccount.labels" .Values.serviceAccount.labels }}
{{- range $key, $_ := $labels }}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh|rbac[.]authorization[.]k8s[.]io|([a-z-]+[.])*patio[.]dev)/" $key }}
{{- fail (printf "%s: the chart sets the label %s, or Patio reads it: choose another name" $where $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $where, $annotations := dict "commonAnnotations" .Values.commonAnnotations "webhook.annotations" .Values.webhook.annotations "serviceAccount.annotations" .Values.serviceAccount.annotations "operator.deploymentAnnotations" .Values.operator.deploymentAnnotations }}
{{- range $key, $_ := $annotations }}
{{- if regexMatch "^(meta[.])?helm[.]sh/|^cert-manager[.]io/inject-" $key }}
{{- fail (printf "%s: Helm or the chart sets the annotation %s: leave it out" $where $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.operator.extraEnv }}
{{- if or (hasPrefix "PATIO_" .name) (eq .name "POD_NAME") }}
{{- fail (printf "operator.extraEnv: the chart sets %s itself: use its value (docs/reference/helm-values.md)" .name) }}
{{- end }}
{{- end }}
{{- range .Values.operator.extraVolumes }}
{{- if has .name (list "tmp" "tls") }}
{{- fail (printf "operator.extraVolumes: the chart has a volume %s: choose another name" .name) }}
{{- end }}
{{- end }}
{{- range .Values.operator.extraContainers }}
{{- if eq .name "operator" }}
{{- fail "operator.extraContainers: operator is the name of the chart's own container: choose another one" }}
{{- end }}
{{- end }}
{{- range .Values.sidecar.env }}
{{- if has .name (list "POD_NAME" "POD_NAMESPACE" "POD_IP" "PATIO_DOWNLOAD_LIMIT" "PATIO_REQUIRED_ADAPTERS") }}
{{- fail (printf "sidecar.env: %s is set by the chart or by the operator%s" .name (ternary ": use sidecar.downloadLimit" "" (eq .name "PATIO_DOWNLOAD_LIMIT"))) }}
{{- end }}
{{- end }}
{{- range .Values.sidecar.extraArgs }}
{{- if regexMatch "^(--access-control|--port|-P)" . }}
{{- fail (printf "sidecar.extraArgs: %s is the chart's: the port is 9091, and access control is access.enforced" .) }}
{{- end }}
{{- end }}
{{- with .Values.sidecar.downloadVolume }}
{{- if gt (len (without (list .sizeLimit .persistentVolumeClaim .hostPath) "")) 1 }}
{{- fail "sidecar.downloadVolume: give only one of sizeLimit, persistentVolumeClaim and hostPath" }}
{{- end }}
{{- end }}
{{- if kindIs "map" .Values.operator.podDisruptionBudget }}
{{- with .Values.operator.podDisruptionBudget }}
{{- if not (or (has .minAvailable (list nil "")) (has .maxUnavailable (list nil ""))) }}
{{- fail "operator.podDisruptionBudget: give only one of minAvailable and maxUnavailable" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
