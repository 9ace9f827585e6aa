/**
 * Getting a published file over HTTP. What has come is kept beside the target as NAME.part; the next try goes on
 * behind it. The file takes its name only when size and sum are the published ones.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { get as getHttp, type IncomingMessage } from 'node:http';
import { get as getHttps } from 'node:https';
import { join } from 'node:path';
import { formatBytes, InputError } from '../engine/errors.ts';
import { cannotWrite, ensureDirectory } from '../report/files.ts';
import type { DownloadableFile } from './published.ts';

export interface DownloadOptions {
  /** Told of the bytes that are there, of all. */
  readonly onProgress?: (done: number, size: number) => void;
  /** Milliseconds without a byte before a connection is given up; default 30 s. */
  readonly patience?: number;
  /** What the user may do when the network does not; the end of the error's line. */
  readonly wayOut?: string;
}

const mostRedirects = 5;
/** A connection that breaks after it has brought something is tried again so many times. */
const mostTries = 5;

/**
 * @returns the path of the file, in `folder`
 * @throws InputError of one line: the URL, what was got, the way out
 */
export async function download(
  file: DownloadableFile,
  folder: string,
  options: DownloadOptions = {},
): Promise<string> {
  const target = join(folder, file.name);
  const part = `${target}.part`;
  ensureDirectory(folder);
  const kept = () => statSync(part, { throwIfNoEntry: false })?.size ?? 0;
  if (kept() > file.size) rmSync(part);
  for (let tries = 1; kept() < file.size; tries++) {
    const before = kept();
    try {
      await transfer(file, part, before, options);
      if (kept() < file.size) throw new Problem('the connection ended early');
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.mayPass && kept() > before && tries < mostTries) continue;
      const there =
        kept() > 0 ? `; ${formatBytes(kept())} of ${formatBytes(file.size)} are kept in ${part}` : '';
      const wayOut = options.wayOut ? `; ${options.wayOut}` : '';
      throw new InputError(`${file.url}: cannot get it: ${error.message}${there}${wayOut}`);
    }
  }
  const md5 = await md5Of(part);
  if (md5 !== file.md5) {
    rmSync(part);
    throw new InputError(
      `${file.url}: gave ${file.size} bytes of md5 ${md5}, as published it is ${file.md5}; they were removed, try again${options.wayOut ? `; ${options.wayOut}` : ''}`,
    );
  }
  try {
    renameSync(part, target);
  } catch (error) {
    throw cannotWrite(target, error);
  }
  return target;
}

/** What is wrong with the network or the server, in words. */
class Problem extends Error {
  constructor(
    message: string,
    /** False where another try would give the same. */
    readonly mayPass = true,
  ) {
    super(message);
  }
}

/** One connection: adds to `part` what lies behind its first `begin` bytes. @throws Problem, InputError */
async function transfer(
  file: DownloadableFile,
  part: string,
  begin: number,
  { onProgress, patience = 30_000 }: DownloadOptions,
): Promise<void> {
  const response = await request(file.url, begin, patience);
  try {
    const from = beginning(response, begin, file.size);
    // A server that knows no ranges sends the whole file: begin anew.
    const descriptor = opened(part, from === 0 ? 'w' : 'a');
    try {
      let done = from;
      onProgress?.(done, file.size);
      await eachChunk(response, (chunk) => {
        if (done + chunk.length > file.size)
          throw new Problem(`it sends more than the ${file.size} bytes that are published`, false);
        try {
          writeFileSync(descriptor, chunk);
        } catch (error) {
          throw cannotWrite(part, error);
        }
        done += chunk.length;
        onProgress?.(done, file.size);
      });
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    if (error instanceof Problem || error instanceof InputError) throw error;
    throw new Problem(inWords(error, patience));
  } finally {
    response.destroy();
  }
}

/** Hands on every byte that came before a connection broke; reading it as a stream would drop the last of them. */
function eachChunk(response: IncomingMessage, take: (chunk: Buffer) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    response.on('data', (chunk: Buffer) => {
      try {
        take(chunk);
      } catch (error) {
        reject(error);
        response.destroy();
      }
    });
    response.on('end', resolve);
    response.on('error', reject);
    response.on('close', () => reject(new Problem('the connection ended early')));
  });
}

function opened(path: string, flags: string): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    throw cannotWrite(path, error);
  }
}

/** Where the response's bytes begin in the file. @throws Problem for an answer that is not the file */
function beginning(
  { statusCode = 0, statusMessage, headers }: IncomingMessage,
  begin: number,
  size: number,
): number {
  if (statusCode !== 200 && statusCode !== 206)
    throw new Problem(`the server says ${statusCode} ${statusMessage ?? ''}`.trim(), false);
  let from = 0;
  let length = Number(headers['content-length'] ?? Number.NaN);
  if (statusCode === 206) {
    const [, first, last, all] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers['content-range'] ?? '') ?? [];
    from = Number(first);
    if (from !== begin)
      throw new Problem(`asked for byte ${begin} on, the server sends ${headers['content-range']}`, false);
    length = all === '*' || all === undefined ? Number(last) + 1 : Number(all);
  }
  if (!Number.isNaN(length) && length !== size)
    throw new Problem(`the server has ${length} bytes, as published it has ${size}`, false);
  return from;
}

/** Follows redirects. @throws Problem */
async function request(url: string, begin: number, patience: number): Promise<IncomingMessage> {
  let at = new URL(url);
  for (let redirects = 0; ; redirects++) {
    const response = await ask(at, begin, patience);
    const { statusCode = 0, headers } = response;
    if (statusCode < 300 || statusCode >= 400 || !headers.location) return response;
    response.destroy();
    if (redirects === mostRedirects) throw new Problem(`more than ${mostRedirects} redirects`, false);
    if (!URL.canParse(headers.location, at)) throw new Problem(`redirects to ${headers.location}`, false);
    at = new URL(headers.location, at);
    if (!/^https?:$/.test(at.protocol)) throw new Problem(`redirects to ${at.protocol}`, false);
  }
}

function ask(url: URL, begin: number, patience: number): Promise<IncomingMessage> {
  // Compressed a second time, the bytes would be counted wrongly.
  const headers: Record<string, string> = { 'accept-encoding': 'identity', 'user-agent': 'cmap-webgpu' };
  if (begin > 0) headers.range = `bytes=${begin}-`;
  const get = url.protocol === 'https:' ? getHttps : getHttp;
  return new Promise((resolve, reject) => {
    let answer: IncomingMessage | undefined;
    // A connection of its own: one that is kept may have been closed by the other side meanwhile.
    const sent = get(url, { headers, timeout: patience, agent: false }, (response) => {
      answer = response;
      resolve(response);
    });
    sent.on('timeout', () => (answer ?? sent).destroy(Object.assign(new Error(), { code: 'SILENT' })));
    sent.on('error', (error) => reject(new Problem(inWords(error, patience))));
  });
}

function inWords(error: unknown, patience: number): string {
  const { code = '', message } = error as NodeJS.ErrnoException;
  const words: Record<string, string> = {
    ENOTFOUND: 'its host is not found (is there a network?)',
    EAI_AGAIN: 'its host is not found (is there a network?)',
    ECONNREFUSED: 'the connection is refused',
    ECONNRESET: 'the connection broke',
    ENETUNREACH: 'the network cannot be reached',
    EHOSTUNREACH: 'the host cannot be reached',
    ETIMEDOUT: 'the host does not answer',
    SILENT: `nothing came for ${patience / 1000} s`,
  };
  return words[code] ?? (code || message);
}

async function md5Of(path: string): Promise<string> {
  const hash = createHash('md5');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
