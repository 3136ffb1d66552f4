// Shows what /overview says, asks it again every two seconds while the page is in view, and asks models of people.
// The key is in this tab's sessionStorage and in no other place.
'use strict';

const KEY = 'patio-gateway-key';
const INTERVAL = 2000;
const LIMIT = 30000;
const MOST_ANSWER = 1000000;

const element = (id) => document.getElementById(id);
const cards = new Map();
const states = new Map();
let names = '';
let shown = '';
let timer = null;
let asking = null;

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
}

// Changes a text only if it is another one, so that a screen reader does not read it again.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function say(text, bad) {
  setText(element('status'), text);
  element('status').classList.toggle('bad', Boolean(bad));
}

function make(tag, className) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  return node;
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? '' : 's'}`;
}

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

function term(list, label) {
  const box = make('div');
  const dt = make('dt');
  dt.textContent = label;
  const dd = make('dd');
  box.append(dt, dd);
  list.append(box);
  return dd;
}

function folded(label) {
  const details = make('details');
  const summary = make('summary');
  const list = make('ul');
  list.setAttribute('aria-label', label);
  details.append(summary, list);
  return { details, summary, list, text: '' };
}

function card() {
  const item = make('li', 'model');
  const title = make('div', 'title');
  const name = make('h3');
  const state = make('span', 'state');
  title.append(name, state);
  const about = make('p', 'quiet');
  const progress = make('progress');
  progress.max = 100;
  progress.setAttribute('aria-label', 'Download');
  const message = make('p');
  const list = make('dl');
  const facts = {
    workers: term(list, 'Workers'),
    queue: term(list, 'Queue'),
    activity: term(list, 'Last held request'),
    decision: term(list, 'Last scaling'),
  };
  const workers = folded('Workers');
  const adapters = folded('Adapters');
  item.append(title, about, progress, message, list, workers.details, adapters.details);
  return { item, name, state, about, progress, message, facts, workers, adapters };
}

function fill(fold, label, lines) {
  fold.details.hidden = lines.length === 0;
  setText(fold.summary, label);
  const text = lines.join('\n');
  if (text === fold.text) return;
  fold.text = text;
  fold.list.replaceChildren(...lines.map((line) => {
    const item = make('li');
    item.textContent = line;
    return item;
  }));
}

function show(parts, model, now) {
  setText(parts.name, model.name);
  const percent = model.percent === null ? '' : ` ${model.percent} %`;
  setText(parts.state, model.state + percent);
  parts.state.dataset.state = model.state;
  const aliases = model.aliases.length ? `, also ${model.aliases.join(', ')}` : '';
  setText(parts.about, `${model.endpoint}, ${model.engine}${aliases}`);
  parts.progress.hidden = model.percent === null;
  if (model.percent !== null) parts.progress.value = model.percent;
  setText(parts.message, model.message);
  parts.message.hidden = !model.message;
  setText(parts.facts.workers, `${model.workers.length} ready`);
  const wait = model.queue.length ? `, oldest waits ${Math.round(model.queue.oldestWaitSeconds)} s` : '';
  setText(parts.facts.queue, `${model.queue.length} of ${model.queue.max}${wait}`);
  setText(parts.facts.activity, model.lastActivity === null ? 'none yet' : ago(now - model.lastActivity));
  const decision = model.decision;
  setText(parts.facts.decision, decision
    ? `${decision.from} to ${decision.to}, ${ago(now - decision.at)}: ${decision.reason}`
    : 'none known');
  fill(parts.workers, plural(model.workers.length, 'worker'),
    model.workers.map((worker) => `${worker.name}: ${plural(worker.adapters, 'adapter')}`));
  fill(parts.adapters, plural(model.adapters.length, 'adapter'),
    model.adapters.map((adapter) => `${adapter.name}: on ${plural(adapter.workers, 'worker')}`));
}

function showAll(models) {
  const now = Date.now() / 1000;
  const list = element('models');
  const known = new Set(models.map((model) => model.endpoint));
  for (const [endpoint, parts] of cards) {
    if (!known.has(endpoint)) {
      parts.item.remove();
      cards.delete(endpoint);
      states.delete(endpoint);
    }
  }
  const news = [];
  models.forEach((model, index) => {
    let parts = cards.get(model.endpoint);
    if (!parts) {
      parts = card();
      cards.set(model.endpoint, parts);
    }
    // A node that is moved loses its focus, so nodes stay where they are.
    if (list.children[index] !== parts.item) list.insertBefore(parts.item, list.children[index] || null);
    show(parts, model, now);
    const before = states.get(model.endpoint);
    if (before !== undefined && before !== model.state) news.push(`${model.name} is ${model.state} now.`);
    states.set(model.endpoint, model.state);
  });
  element('empty').hidden = models.length > 0;
  const all = models.flatMap((model) => [model.name, ...model.aliases, ...model.adapters.map((each) => each.name)]);
  if (all.join('\n') !== names) {
    names = all.join('\n');
    element('names').replaceChildren(...all.map((name) => {
      const option = make('option');
      option.value = name;
      return option;
    }));
    if (!element('model').value && all.length) element('model').value = all[0];
  }
  const ready = models.filter((model) => model.state === 'Ready').length;
  const summary = `${ready} of ${plural(models.length, 'model')} ready.`;
  if (news.length || shown === '' || summary !== shown) say([...news.slice(0, 5), summary].join(' '));
  shown = summary;
}

function hide(text, bad) {
  for (const parts of cards.values()) parts.item.remove();
  cards.clear();
  states.clear();
  element('names').replaceChildren();
  names = '';
  shown = '';
  say(text, bad);
}

async function problem(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The gateway answered ${answer.status}.`;
  }
}

async function look() {
  clearTimeout(timer);
  const key = sessionStorage.getItem(KEY);
  element('forget').hidden = !key;
  try {
    const answer = await fetch('overview', { headers: headers(), signal: AbortSignal.timeout(LIMIT) });
    if (sessionStorage.getItem(KEY) !== key) return look();
    if (answer.status === 401 && key) hide('The gateway does not know this key.', true);
    else if (answer.status === 401) hide('Enter an API key to see the models.', false);
    else if (!answer.ok) say(await problem(answer), true);
    else showAll((await answer.json()).models);
  } catch {
    shown = '';
    say('The gateway does not answer. What is shown may be old.', true);
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, INTERVAL);
  return undefined;
}

// Returns the text that an event of a stream adds to the answer.
function added(event) {
  const choice = event.choices && event.choices[0];
  if (!choice) return '';
  return (choice.delta ? choice.delta.content : choice.text) || '';
}

async function read(answer, onText) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error('The answer broke off.');
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const data = line.slice(5).trim();
      if (data === '[DONE]') return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message || 'The engine failed.');
      onText(added(event));
    }
  }
}

function sayAsked(text, bad) {
  setText(element('ask-status'), text);
  element('ask-status').classList.toggle('bad', Boolean(bad));
}

async function ask(event) {
  event.preventDefault();
  if (asking) return;
  asking = new AbortController();
  element('ask').disabled = true;
  element('stop').disabled = false;
  element('answer').textContent = '';
  sayAsked('Asked. A model without a worker is started first.');
  const prompt = element('prompt').value;
  const chat = element('api').value === 'chat';
  const body = {
    model: element('model').value,
    stream: true,
    max_tokens: Number(element('most').value),
    ...(chat ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
  };
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1000).toFixed(1);
  let first = null;
  let length = 0;
  try {
    const answer = await fetch(chat ? 'v1/chat/completions' : 'v1/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers() },
      body: JSON.stringify(body),
      signal: asking.signal,
    });
    if (!answer.ok) throw new Error(await problem(answer));
    const pod = answer.headers.get('x-patio-pod');
    await read(answer, (text) => {
      if (!text) return;
      if (first === null) {
        first = seconds();
        sayAsked('The model answers.');
      }
      length += text.length;
      if (length > MOST_ANSWER) throw new Error('The answer is too long for this page.');
      element('answer').append(text);
    });
    const worker = pod ? ` by ${pod}` : '';
    sayAsked(`Answered${worker} in ${seconds()} s; first text after ${first === null ? seconds() : first} s.`);
  } catch (error) {
    sayAsked(error.name === 'AbortError' ? `Stopped after ${seconds()} s.` : error.message, error.name !== 'AbortError');
    if (asking) asking.abort();
  } finally {
    asking = null;
    element('ask').disabled = false;
    element('stop').disabled = true;
  }
}

element('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const key = element('key').value.trim();
  if (!key) return;
  sessionStorage.setItem(KEY, key);
  element('key').value = '';
  look();
});
element('forget').addEventListener('click', () => {
  sessionStorage.removeItem(KEY);
  element('key').focus();
  look();
});
element('ask-form').addEventListener('submit', ask);
element('stop').addEventListener('click', () => {
  if (asking) asking.abort();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) look();
});
look();
