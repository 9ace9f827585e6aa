/** The page in a headless Chromium on SwiftShader: a click attacks and purifies, and the numbers are those of Node. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import chromium from '@sparticuz/chromium';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { pgd } from '../../src/attacks/pgd.ts';
import { serve } from '../../src/cli/web.ts';
import { purify } from '../../src/cmap/purify.ts';
import { classifyByVote } from '../../src/cmap/vote.ts';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { loadClassifier, loadConsistencyModel, loadPreset } from '../../src/models.ts';
import { testDevice } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('web');
const folder = mkdtempSync(join(tmpdir(), 'cmap-web-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const { refused } = commandIn(folder);

const [eps, steps, k, iterations] = [16, 2, 2, 4];

/** Drives the page, which lies in a frame beside it, as a user would, and posts what it then says. */
const driver = `<!doctype html><iframe src="/page/" width="900" height="900"></iframe><script type="module">
  const post = (result) => fetch('/result', { method: 'POST', body: JSON.stringify(result) });
  try {
    const frame = document.querySelector('iframe');
    await new Promise((loaded) => frame.addEventListener('load', loaded, { once: true }));
    const page = frame.contentDocument;
    const at = (id) => page.getElementById(id);
    const until = async (test) => {
      while (!test()) {
        if (at('status').hasAttribute('data-failed')) throw new Error(at('status').textContent);
        await new Promise((later) => setTimeout(later, 50));
      }
    };
    await until(() => !at('run').disabled);
    const choices = at('choices').children.length;
    at('choices').children[1].click();
    for (const [id, value] of Object.entries(${JSON.stringify({ eps, steps, k, iterations })})) at(id).value = value;
    at('run').click();
    await until(() => at('run').disabled);
    await until(() => !at('run').disabled);
    const ended = {
      choices,
      status: at('status').textContent,
      verdict: at('verdict').textContent,
      clean: at('clean-label').value,
      lines: at('trace').querySelectorAll('polyline').length,
    };
    // A second run is stopped while it purifies; the page then is as ready as before.
    at('iterations').value = 1000;
    at('run').click();
    await until(() => /iteration [1-9]/.test(at('status').textContent));
    at('stop').click();
    while (at('run').disabled) await new Promise((later) => setTimeout(later, 50));
    await post({ ...ended, stopped: at('status').textContent, offered: !at('stop').hidden });
  } catch (error) {
    await post({ error: String(error) });
  }
</script>`;

async function body(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

/** What the page says after one run. @param browserPath of Chromium */
async function drive(browserPath: string): Promise<Record<string, unknown>> {
  const page = await serve(0);
  let [resolve, reject] = [(_: string) => {}, (_: Error) => {}];
  const posted = new Promise<string>((...both) => {
    [resolve, reject] = both;
  });
  const server = createServer(async (request, response) => {
    if (request.url === '/') response.setHeader('content-type', 'text/html').end(driver);
    else if (request.url === '/result') {
      resolve(await body(request));
      response.end();
    } else {
      // From one origin, or the frame could not be looked into.
      const found = await fetch(new URL((request.url as string).replace(/^\/page\//, '/'), page.url));
      const type = found.headers.get('content-type');
      response.writeHead(found.status, type ? { 'content-type': type } : {});
      response.end(Buffer.from(await found.arrayBuffer()));
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const browser = spawn(
    browserPath,
    [
      ...[
        '--headless',
        '--no-sandbox',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-quic',
      ],
      ...[
        '--enable-unsafe-webgpu',
        '--use-webgpu-adapter=swiftshader',
        `--user-data-dir=${join(folder, 'user')}`,
      ],
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    ],
    { stdio: 'ignore' },
  );
  browser.once('exit', (code) => reject(new Error(`Chromium ended with ${code}`)));
  browser.once('error', reject);
  try {
    return JSON.parse(await posted);
  } finally {
    browser.kill('SIGKILL');
    await once(browser, 'exit');
    for (const one of [server, page.server]) {
      one.closeAllConnections();
      one.close();
    }
  }
}

test('a click attacks and purifies, as in Node', async () => {
  const browser = await chromium.executablePath();
  const { status, stderr } = spawnSync(browser, ['--version'], { encoding: 'utf8' });
  if (status !== 0) return console.log(`  skipped: Chromium does not start here: ${stderr.split('\n')[0]}`);
  const said = await drive(browser);
  assert.is(said.error, undefined);

  const device = await testDevice();
  const [model, classifier] = [loadConsistencyModel(device), loadClassifier(device)];
  const { cmap } = loadPreset('fashion-mnist');
  const { images, labels, shape } = loadFashionMnist({ indices: [1] });
  const attack = { eps: eps / 255, steps, stepSize: (2.5 * eps) / 255 / steps, randomStart: true, seed: 0 };
  const adversarial = await pgd(classifier.net, device.tensor(images, shape), labels, attack);
  const { images: purified, trace } = await purify(model.net, adversarial, {
    ...cmap,
    k,
    iterations,
    seed: 0,
  });
  const [vote] = await classifyByVote(classifier.net, purified);
  const name = (label: number) => classifier.classes[label] as string;
  const last = trace[0]?.at(-1);

  assert.equal([said.stopped, said.offered], ['Stopped.', false]);
  assert.is(said.choices, 16);
  assert.is(said.clean, name(labels[0] as number));
  assert.is(said.lines, 2);
  assert.match(
    String(said.verdict),
    `The vote: ${name(vote?.label as number)}, ${vote?.votes[vote.label]} of ${k}`,
  );
  const [, mae, ssim] = /MAE (\S+), SSIM (\S+) at the end/.exec(String(said.status)) ?? [];
  // Four digits are printed; drivers differ by less after so few steps.
  assert.ok(Math.abs(Number(mae) - (last?.mae as number)) < 2e-4, `MAE ${mae}, in Node ${last?.mae}`);
  assert.ok(Math.abs(Number(ssim) - (last?.ssim as number)) < 2e-4, `SSIM ${ssim}, in Node ${last?.ssim}`);
});

test('bad input', () => {
  refused(['web', '--port', '70000'], /--port must be 0 to 65535, got 70000/);
});

test.run();
