// `node draw.mjs DATA FOLDER [THEME...]`: draws every dashboard of DATA as a picture in FOLDER.
//
// Bundles the page, serves it with the data on loopback, opens it in headless Chromium, and takes a picture of the whole
// page. Chromium is the one that the variable CHROMIUM names, or Debian's. Fails if the page logs an error.

import { access, constants, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join, normalize, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';
import { launch } from 'puppeteer-core';
import sharp from 'sharp';

const HERE = dirname(fileURLToPath(import.meta.url));
const { resolve } = createRequire(import.meta.url);
const ICONS = join(dirname(resolve('@grafana/ui/package.json')), 'dist/public/img/icons');
const ICON_PATH = '/build/img/icons/';
// Where Grafana's styles look for its font, and the file of the package that has it.
const FONTS = {
  '/fonts/inter/Inter-Regular.woff2': resolve('@fontsource/inter/files/inter-latin-400-normal.woff2'),
  '/fonts/inter/Inter-Medium.woff2': resolve('@fontsource/inter/files/inter-latin-500-normal.woff2'),
};
const WIDTH = 1600;
const QUIET = 500;
const LIMIT = 60_000;
const PAGE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Dashboard</title>
<link rel="stylesheet" href="/index.css"><link rel="icon" href="data:,">
<body style="margin:0"><div id="page"></div>
<script>window.__grafana_public_path__ = '/';</script><script src="/index.js"></script></body></html>`;

async function chromium() {
  const path = process.env.CHROMIUM ?? '/usr/bin/chromium';
  try {
    await access(path, constants.X_OK);
  } catch {
    const remedy = 'Set CHROMIUM to one, or on Debian: apt-get install --no-install-recommends chromium';
    throw new Error(`there is no Chromium at ${path}. ${remedy}`);
  }
  return path;
}

async function bundled() {
  const { outputFiles } = await build({
    bundle: true,
    define: { 'process.env.NODE_ENV': '"production"' },
    entryPoints: [join(HERE, 'page/index.jsx')],
    jsx: 'automatic',
    loader: { '.svg': 'dataurl', '.ttf': 'empty', '.woff': 'empty', '.woff2': 'empty' },
    logLevel: 'error',
    minify: true,
    outdir: '/',
    write: false,
  });
  return Object.fromEntries(outputFiles.map(({ path, contents }) => [path, contents]));
}

async function fonts() {
  const read = Object.entries(FONTS).map(async ([path, file]) => [path, await readFile(file)]);
  return Object.fromEntries(await Promise.all(read));
}

async function served(files) {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    let content = files[pathname];
    if (pathname.startsWith(ICON_PATH)) {
      const path = normalize(join(ICONS, pathname.slice(ICON_PATH.length)));
      content = path.startsWith(ICONS + sep) ? await readFile(path).catch(() => undefined) : undefined;
    }
    const kinds = { css: 'text/css', js: 'text/javascript', json: 'application/json', svg: 'image/svg+xml', woff2: 'font/woff2' };
    const type = kinds[pathname.split('.').at(-1)] ?? 'text/html; charset=utf-8';
    response.writeHead(content === undefined ? 404 : 200, { 'content-type': type });
    response.end(content);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return server;
}

async function picture(browser, url) {
  const page = await browser.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.stack));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  page.on('response', (response) => response.status() >= 400 && errors.push(response.url()));
  await page.setViewport({ width: WIDTH, height: 1000 });
  await page.goto(url);
  // The first panel is there, then nothing has been drawn for a while.
  await page.waitForFunction('document.querySelector("section") || document.body.dataset.failed', { timeout: LIMIT });
  await page.evaluate(
    (quiet) =>
      new Promise((done) => {
        let timer = setTimeout(done, quiet);
        new MutationObserver(() => {
          clearTimeout(timer);
          timer = setTimeout(done, quiet);
        }).observe(document.body, { attributes: true, childList: true, subtree: true });
      }),
    QUIET
  );
  const failed = await page.evaluate(() => document.body.dataset.failed);
  const drawn = await page.screenshot({ fullPage: true });
  await page.close();
  if (failed || errors.length) {
    throw new Error([failed, ...errors].filter(Boolean).join('\n'));
  }
  return sharp(drawn).png({ palette: true, colours: 128, effort: 10, compressionLevel: 9, dither: 0 }).toBuffer();
}

async function main([source, folder, ...themes]) {
  if (!folder) {
    throw new Error('usage: node draw.mjs DATA FOLDER [light] [dark]');
  }
  const data = await readFile(source);
  const server = await served({ '/': PAGE, '/data.json': data, ...(await bundled()), ...(await fonts()) });
  const browser = await launch({
    executablePath: await chromium(),
    // The page is our own; without user namespaces, as in most containers, there is no sandbox to be had.
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--force-color-profile=srgb', '--hide-scrollbars'],
  });
  try {
    for (const uid of Object.keys(JSON.parse(data).dashboards)) {
      for (const theme of themes.length ? themes : ['light', 'dark']) {
        const url = `http://127.0.0.1:${server.address().port}/?uid=${uid}&theme=${theme}`;
        const content = await picture(browser, url);
        const path = join(folder, `${uid}-${theme}.png`);
        await writeFile(path, content);
        console.log(`${path}: ${Math.round(content.length / 1000)} kB`);
      }
    }
  } finally {
    await browser.close();
    server.close();
  }
}

await main(process.argv.slice(2));
