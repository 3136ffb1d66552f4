// The two kinds of panels that Grafana publishes no component for: timelines of states, and heatmaps of histograms.
//
// Words, colours and units come from Grafana's display processors, as everywhere; only rectangles are drawn here.

import { getDisplayProcessor, FieldType, dateTimeFormat } from '@grafana/data';
import { LegendDisplayMode, measureText, useTheme2, VizLegend } from '@grafana/ui';

import { buckets } from './frames.js';

const AXIS = 22;
const TOP = 8;
const FONT = 12;
const TICK_EVERY = 120;

function ticks(span, width) {
  const steps = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const wanted = ((span.to - span.from) * TICK_EVERY) / width;
  const step = steps.find((one) => one >= wanted) ?? steps.at(-1);
  const found = [];
  for (let at = Math.ceil(span.from / step) * step; at <= span.to; at += step) {
    found.push({ at, text: dateTimeFormat(at * 1000, { timeZone: 'utc', format: step < 60 ? 'HH:mm:ss' : 'HH:mm' }) });
  }
  return found;
}

function TimeAxis({ span, left, width, height, theme }) {
  const x = (at) => left + ((at - span.from) / (span.to - span.from)) * width;
  return ticks(span, width).map(({ at, text }) => (
    <g key={at}>
      <line x1={x(at)} x2={x(at)} y1={0} y2={height} stroke={theme.colors.border.weak} />
      <text x={x(at)} y={height + 16} textAnchor="middle" fontSize={FONT} fill={theme.colors.text.primary}>
        {text}
      </text>
    </g>
  ));
}

function widest(texts) {
  // The page spaces its letters a little; what measures them does not.
  return Math.ceil(1.05 * Math.max(...texts.map((text) => measureText(text, FONT).width)));
}

/** Runs of equal values: where each begins and ends, as indexes. */
export function runs(values) {
  const found = [];
  values.forEach((value, index) => {
    const last = found.at(-1);
    if (last && last.value === value) {
      last.end = index + 1;
    } else {
      found.push({ value, start: index, end: index + 1 });
    }
  });
  return found.filter(({ value }) => value !== null);
}

export function StateTimeline({ panel, frames, span, width, height }) {
  const theme = useTheme2();
  const rows = frames
    .map(({ fields: [, field] }) => ({ name: field.config.displayNameFromDS, field }))
    .sort((one, other) => one.name.localeCompare(other.name));
  const seen = new Map();
  for (const { field } of rows) {
    for (const value of field.values) {
      if (value !== null && !seen.has(value)) {
        seen.set(value, field.display(value));
      }
    }
  }
  const items = [...seen].sort(([one], [other]) => one - other).map(([, { text, color }]) => ({ label: text, color, yAxis: 1 }));
  const legend = 26;
  const left = Math.min(widest(rows.map(({ name }) => name)) + 12, width / 2);
  const plot = { width: width - left - 10, height: height - AXIS - legend };
  const row = plot.height / rows.length;
  const bar = row * (panel.options.rowHeight ?? 0.9);
  const { step } = span;
  const x = (index) => left + Math.min(1, (index * step) / (span.to - span.from)) * plot.width;
  return (
    <div>
      <svg width={width} height={plot.height + AXIS} style={{ display: 'block' }}>
        <TimeAxis span={span} left={left} {...plot} theme={theme} />
        {rows.map(({ name, field }, index) => (
          <g key={name} transform={`translate(0 ${index * row + (row - bar) / 2})`}>
            <text x={left - 8} y={bar / 2 + 4} textAnchor="end" fontSize={FONT} fill={theme.colors.text.primary}>
              {name}
            </text>
            {runs(field.values).map(({ value, start, end }) => (
              <rect
                key={start}
                x={x(start)}
                width={Math.max(0, x(end) - x(start))}
                height={bar}
                fill={field.display(value).color}
                fillOpacity={(panel.fieldConfig.defaults.custom?.fillOpacity ?? 70) / 100}
              />
            ))}
          </g>
        ))}
      </svg>
      <VizLegend items={items} displayMode={LegendDisplayMode.List} placement="bottom" />
    </div>
  );
}

export function Heatmap({ panel, answer, span, width, height }) {
  const theme = useTheme2();
  const all = buckets(answer, span);
  // Buckets at both ends that never had anything only take room.
  const used = all.map(({ values }) => values.some((value) => value > 0));
  const rows = all.slice(Math.max(0, used.indexOf(true) - 1), used.lastIndexOf(true) + 2);
  const unit = panel.options.yAxis?.unit ?? panel.fieldConfig.defaults.unit;
  const display = getDisplayProcessor({ field: { type: FieldType.number, config: { unit } }, theme });
  const name = (bound) => {
    const { text, suffix } = display(bound);
    return Number.isFinite(bound) ? `${text}${suffix ?? ''}` : '+Inf';
  };
  const most = Math.max(...rows.flatMap(({ values }) => values));
  const left = widest(rows.map(({ bound }) => name(bound))) + 12;
  const plot = { width: width - left - 10, height: height - AXIS - TOP };
  const row = plot.height / rows.length;
  const cell = (plot.width * span.step) / (span.to - span.from);
  const every = Math.ceil(16 / row);
  // Grafana's default scheme is Oranges, from light to dark; in the dark theme the low end fades into the panel.
  const scheme = panel.options.color?.fill ?? 'dark-orange';
  const fill = theme.visualization.getColorByName(scheme);
  return (
    <svg width={width} height={height} viewBox={`0 ${-TOP} ${width} ${height}`} style={{ display: 'block' }}>
      <TimeAxis span={span} left={left} {...plot} theme={theme} />
      {rows.map(({ bound, values }, index) => {
        const y = plot.height - (index + 1) * row;
        return (
          <g key={bound}>
            {index % every === 0 && (
              <text x={left - 8} y={y + 4} textAnchor="end" fontSize={FONT} fill={theme.colors.text.primary}>
                {name(bound)}
              </text>
            )}
            {values.map(
              (value, point) =>
                value > 0 && (
                  <rect
                    key={point}
                    x={left + point * cell}
                    y={y}
                    width={Math.max(0, Math.min(cell, left + plot.width - (left + point * cell)) - 1)}
                    height={Math.max(1, row - 1)}
                    fill={fill}
                    fillOpacity={Math.sqrt(value / most)}
                  />
                )
            )}
          </g>
        );
      })}
    </svg>
  );
}
