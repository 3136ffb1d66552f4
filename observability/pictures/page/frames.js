// Turns Prometheus' answers into Grafana's data frames, as Grafana's data source for Prometheus does.
//
// A range becomes one frame a series, with a hole where a point is missing; an instant becomes one frame a series, or,
// for a table, one frame with a row a series and a column for each label. Pure.

import { FieldType } from '@grafana/data';

export function legendOf(pattern, labels) {
  if (pattern === '__auto' || pattern === '') {
    return Object.entries(labels)
      .filter(([name]) => name !== '__name__')
      .map(([name, value]) => `${name}="${value}"`)
      .join(', ');
  }
  return pattern.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
}

export function number(text) {
  return { '+Inf': Infinity, '-Inf': -Infinity }[text] ?? Number(text);
}

function series(answer, times, values) {
  const { metric } = answer.series;
  return {
    refId: answer.refId,
    name: answer.name,
    length: times.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: { interval: answer.interval }, values: times },
      {
        name: 'Value',
        type: FieldType.number,
        config: { displayNameFromDS: answer.name },
        labels: metric,
        values,
      },
    ],
  };
}

/** Frames of a graph: one a series, on the times from `from` to `to`, in seconds. */
export function rangeFrames({ result, refId, legend }, { from, to, step }) {
  const count = Math.floor((to - from) / step + 1e-6) + 1;
  const times = Array.from({ length: count }, (_, index) => Math.round((from + index * step) * 1000));
  return result.map((one) => {
    const values = new Array(count).fill(null);
    for (const [second, text] of one.values) {
      values[Math.round((second - from) / step)] = number(text);
    }
    const answer = { series: one, refId, name: legendOf(legend, one.metric), interval: step * 1000 };
    return series(answer, times, values);
  });
}

/** Frames of numbers: one a series, with its one value. */
export function instantFrames({ result, refId, legend }) {
  return result.map((one) => {
    const [second, text] = one.value;
    const answer = { series: one, refId, name: legendOf(legend, one.metric), interval: 0 };
    return series(answer, [second * 1000], [number(text)]);
  });
}

/** The frame of one query of a table: a row a series. */
export function tableFrame({ result, refId }) {
  const labels = [...new Set(result.flatMap((one) => Object.keys(one.metric)))].sort();
  return {
    refId,
    length: result.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: result.map((one) => one.value[0] * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: {},
        values: result.map((one) => one.metric[label] ?? ''),
      })),
      {
        name: `Value #${refId}`,
        type: FieldType.number,
        config: {},
        values: result.map((one) => number(one.value[1])),
      },
    ],
  };
}

/** Buckets of a classic histogram, from the lowest: what of each point fell between its bound and the one before. */
export function buckets({ result }, { from, to, step }) {
  const count = Math.floor((to - from) / step + 1e-6) + 1;
  const bounds = result
    .map((one) => ({ bound: number(one.metric.le), values: one.values }))
    .sort((one, other) => one.bound - other.bound);
  let below = new Array(count).fill(0);
  return bounds.map(({ bound, values }) => {
    const upTo = [...below];
    for (const [second, text] of values) {
      upTo[Math.round((second - from) / step)] = number(text);
    }
    const inside = upTo.map((value, index) => Math.max(0, value - below[index]));
    below = upTo;
    return { bound, values: inside };
  });
}
