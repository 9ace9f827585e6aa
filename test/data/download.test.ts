/** Downloads against a server on this machine that behaves well, badly, and in between. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type DownloadOptions, download } from '../../src/data/download.ts';
import { numbers, refuses, temporaryFolder } from '../formats/fuzz.ts';
import { md5 } from '../support-data.ts';

const random = numbers(1);
const content = Buffer.from(Uint8Array.from({ length: 300_000 }, () => Math.floor(random() * 256)));
const root = temporaryFolder();

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
let handler: Handler = () => {};
let asked: IncomingMessage[] = [];
const server = createServer((request, response) => {
  asked.push(request);
  handler(request, response);
});

/** All of it, or what lies behind the byte that is asked for. */
const good: Handler = (request, response) => {
  const first = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  const rest = content.subarray(first);
  if (first > 0) {
    response.writeHead(206, {
      'content-length': rest.length,
      'content-range': `bytes ${first}-${content.length - 1}/${content.length}`,
    });
  } else response.writeHead(200, { 'content-length': rest.length });
  response.end(rest);
};

/** Breaks the connection after so many bytes of the answer. */
const breaking =
  (bytes: number): Handler =>
  (request, response) => {
    const first = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    response.writeHead(first > 0 ? 206 : 200, {
      'content-length': content.length - first,
      ...(first > 0 ? { 'content-range': `bytes ${first}-${content.length - 1}/${content.length}` } : {}),
    });
    response.write(content.subarray(first, first + bytes), () => setTimeout(() => response.destroy(), 20));
  };

const test = suite('download');
test.before(() => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)));
test.after(() => {
  server.closeAllConnections();
  server.close();
});
test.before.each(() => {
  asked = [];
});

function setUp(use: Handler, kept?: Uint8Array) {
  handler = use;
  const folder = mkdtempSync(join(root, 'folder-'));
  if (kept) writeFileSync(join(folder, 'set.bin.part'), kept);
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/set.bin`;
  const file = { name: 'set.bin', size: content.length, md5: md5(content), url };
  const get = (options: DownloadOptions = {}) => download(file, folder, options);
  return { folder, file, get };
}

async function fails(promise: Promise<unknown>, ...parts: string[]): Promise<void> {
  const error = await promise.then(
    () => null,
    (reason) => reason,
  );
  refuses(
    () => {
      if (error) throw error;
    },
    ...parts,
  );
}

const whole = (folder: string) => {
  assert.equal(readdirSync(folder), ['set.bin']);
  assert.ok(readFileSync(join(folder, 'set.bin')).equals(content));
};

test('whole, with progress', async () => {
  const { folder, get } = setUp(good);
  const told: number[] = [];
  const onProgress = (done: number, size: number) => {
    assert.is(size, content.length);
    told.push(done);
  };
  assert.is(await get({ onProgress }), join(folder, 'set.bin'));
  whole(folder);
  assert.is(told[0], 0);
  assert.is(told.at(-1), content.length);
  assert.is(asked[0]?.headers.range, undefined);
  assert.is(asked[0]?.headers['accept-encoding'], 'identity');
});

test('goes on behind what is there', async () => {
  const { folder, get } = setUp(good, content.subarray(0, 100_000));
  const told: number[] = [];
  await get({ onProgress: (done) => told.push(done) });
  whole(folder);
  assert.is(asked[0]?.headers.range, 'bytes=100000-');
  assert.is(told[0], 100_000);
});

test('a part that is whole needs no network; one that is too long is dropped', async () => {
  const complete = setUp(good, content);
  await complete.get();
  whole(complete.folder);
  assert.is(asked.length, 0);
  const long = setUp(good, Buffer.concat([content, content]));
  await long.get();
  whole(long.folder);
  assert.is(asked[0]?.headers.range, undefined);
});

test('a server that knows no ranges', async () => {
  const { folder, get } = setUp((_, response) => response.end(content), Buffer.alloc(5000, 7));
  await get();
  whole(folder);
  assert.is(asked[0]?.headers.range, 'bytes=5000-');
});

test('a connection that breaks is taken up again', async () => {
  const { folder, get } = setUp(breaking(80_000));
  await get();
  whole(folder);
  assert.equal(
    asked.map(({ headers }) => headers.range),
    [undefined, 'bytes=80000-', 'bytes=160000-', 'bytes=240000-'],
  );
});

test('a connection that always breaks: what came is kept, and the next command goes on', async () => {
  const { folder, file, get } = setUp(breaking(10_000));
  await fails(
    get({ wayOut: 'do this' }),
    file.url,
    'the connection broke',
    '48.8 KiB of 293.0 KiB are kept in',
    'do this',
  );
  assert.equal(readdirSync(folder), ['set.bin.part']);
  handler = good;
  await get();
  whole(folder);
  assert.is(asked.at(-1)?.headers.range, 'bytes=50000-');
});

test('truncated without a length', async () => {
  const { folder, file, get } = setUp((request, response) => {
    if (request.headers.range) response.writeHead(503).end();
    else response.end(content.subarray(0, 1000));
  });
  await fails(get(), file.url, '1000 bytes, as published it has 300000');
  handler = (request, response) => {
    if (request.headers.range) return response.writeHead(503).end();
    response.write(content.subarray(0, 1000));
    response.end();
  };
  await fails(get(), file.url, 'the server says 503', '1000 B of 293.0 KiB are kept');
  assert.equal(readdirSync(folder), ['set.bin.part']);
});

test('another content of the same size is removed', async () => {
  const other = Buffer.alloc(content.length, 1);
  const { folder, file, get } = setUp((_, response) => response.end(other));
  await fails(get(), file.url, md5(other), file.md5, 'removed');
  assert.equal(readdirSync(folder), []);
  // As is a good rest behind a bad part.
  const mixed = setUp(good, other.subarray(0, 1000));
  await fails(mixed.get(), 'md5', 'removed');
  await mixed.get();
  whole(mixed.folder);
});

test('too much', async () => {
  const { folder, get } = setUp((_, response) => {
    response.write(content);
    response.end('more');
  });
  await fails(get(), 'sends more than the 300000 bytes');
  assert.not.ok(existsSync(join(folder, 'set.bin')));
});

test('answers that are not the file', async () => {
  const { folder, file, get } = setUp((_, response) => response.writeHead(404).end('nothing here'));
  await fails(get({ wayOut: 'do this' }), file.url, 'the server says 404 Not Found', 'do this');
  assert.equal(readdirSync(folder), []);
  handler = (_, response) => response.end('<html>please log in</html>');
  await fails(get(), 'the server has 26 bytes, as published it has 300000');
  const resumed = setUp(
    (_, response) => {
      response.writeHead(206, { 'content-range': 'bytes 7-9/300000' }).end('abc');
    },
    content.subarray(0, 500),
  );
  await fails(resumed.get(), 'asked for byte 500 on, the server sends bytes 7-9/300000');
});

test('redirects', async () => {
  const { folder, get } = setUp((request, response) => {
    if (request.url === '/set.bin') response.writeHead(302, { location: '/elsewhere' }).end();
    else good(request, response);
  });
  await get();
  whole(folder);
  const round = setUp((_, response) => response.writeHead(301, { location: '/set.bin' }).end());
  await fails(round.get(), 'more than 5 redirects');
  const away = setUp((_, response) => response.writeHead(301, { location: 'file:///etc/passwd' }).end());
  await fails(away.get(), 'redirects to file:');
});

test('silence', async () => {
  const { get } = setUp(() => {});
  await fails(get({ patience: 50 }), 'nothing came for 0.05 s');
  const stalled = setUp((_, response) => {
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 3));
  });
  await fails(stalled.get({ patience: 50 }), 'nothing came for 0.05 s', '3 B of 293.0 KiB are kept');
});

test('no server, no host, no folder', async () => {
  const { file, folder } = setUp(good);
  const elsewhere = (url: string) => download({ ...file, url }, folder);
  await fails(elsewhere('http://127.0.0.1:1/set.bin'), 'http://127.0.0.1:1/set.bin', 'refused');
  await fails(elsewhere('http://nowhere.invalid/set.bin'), 'its host is not found');
  writeFileSync(join(folder, 'file'), '');
  await fails(download(file, join(folder, 'file')), 'cannot write it');
});

test.run();
