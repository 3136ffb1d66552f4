{{/*
Names are fixed, not made from the release's: what Patio installs is cluster-wide, so a second release in the cluster
must be refused, and manifests and documentation can name what they mean.
*/}}

{{- define "patio.selector" -}}
app.kubernetes.io/name: patio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "patio.labels" -}}
app.kubernetes.io/name: patio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: patio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* groups.mode; YAML reads an off without quotes as false. */}}
{{- define "patio.mode" -}}
{{ ternary "off" .Values.groups.mode (eq (toString .Values.groups.mode) "false") }}
{{- end }}

{{/* The reference of an image: (list $ .Values.operator.image) */}}
{{- define "patio.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else if contains "@" $image.repository -}}
{{ $image.repository }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}
