import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { openCheckpoint, readCheckpoint } from '../../src/formats/checkpoint.ts';
import { encodeNpy } from '../../src/formats/npy.ts';
import { openFile } from '../../src/formats/read.ts';
import { openSafetensors } from '../../src/formats/safetensors.node.ts';
import { encodeSafetensors } from '../../src/formats/safetensors.ts';
import { compareTensors, convertCheckpoint } from '../../src/formats/weights.ts';
import type { TensorSource } from '../../src/nets/parameters.ts';
import { root, sharedData } from '../support.ts';
import { refuses, refusesAsync, temporaryFolder } from './fuzz.ts';

const folder = join(root, 'test', 'fixtures', 'formats');

test('every format gives the numbers that its own library finds', async () => {
  const expected = await openCheckpoint(join(folder, 'expected.safetensors'));
  const types = JSON.parse(expected.metadata.types as string) as Record<string, string>;
  const formats = {
    'torch-zip.pt': 'torch',
    'torch-legacy.pth': 'torch-legacy',
    'flax.msgpack': 'flax',
    'stored.npz': 'npz',
    'deflated.npz': 'npz',
  };
  for (const [file, format] of Object.entries(formats)) {
    const checkpoint = await openCheckpoint(join(folder, file));
    const source: TensorSource = checkpoint;
    assert.is(checkpoint.format, format);
    const wanted = expected.names.filter((key) => key.startsWith(`${file}:`));
    assert.equal([...source.names].sort(), wanted.map((key) => key.slice(file.length + 1)).sort());
    for (const key of wanted) {
      const name = key.slice(file.length + 1);
      const { shape, data } = expected.array(key);
      assert.equal(source.shape(name), shape, key);
      assert.is(checkpoint.type(name), types[key], key);
      assert.equal([...checkpoint.array(name).data], [...data], key);
      assert.equal([...source.floats(name)], [...Float32Array.from(data)], key);
    }
    checkpoint.close();
    refuses(() => checkpoint.floats(checkpoint.names[0] as string), file, 'closed');
    refuses(() => checkpoint.shape('nowhere'), file, 'no tensor "nowhere"', `it has ${wanted.length}`);
  }
});

test('what is no tensor becomes metadata', async () => {
  for (const file of ['torch-zip.pt', 'torch-legacy.pth']) {
    const { metadata, close } = await openCheckpoint(join(folder, file));
    close();
    assert.equal(
      { ...metadata },
      {
        'ema.decay': '0.999',
        'ema.num_updates': '1099511627776',
        'optimizer.state.0.step': '10',
        'optimizer.param_groups.0.lr': '0.1',
        'optimizer.param_groups.0.betas': '[0.9, 0.999]',
        'optimizer.param_groups.0.nesterov': 'false',
        'optimizer.param_groups.0.params': '[0, 1, 2]',
        best: '91.75',
        size: '[3, 32, 32]',
        device: 'cpu',
        'args.arch': 'resnet20',
        'args.depth': '20',
        nothing: 'None',
      },
    );
  }
  const { metadata, close } = await openCheckpoint(join(folder, 'flax.msgpack'));
  close();
  assert.equal(
    { ...metadata },
    { step: '300', lr: '0.0002', ema_rate: '0.75', rotation: '[1, -2]', 'opt_state.0.mu': 'None' },
  );
});

test('the content tells the format, not the name', async () => {
  const temporary = temporaryFolder();
  const path = join(temporary, 'weights.pt');
  const tensors = { a: { shape: [2], data: Float64Array.of(0.1, -2) } };
  writeFileSync(path, encodeSafetensors(tensors, { step: '3' }));
  const safetensors = await openCheckpoint(path);
  assert.is(safetensors.format, 'safetensors');
  assert.equal({ ...safetensors.metadata }, { step: '3' });
  assert.equal(safetensors.array('a'), tensors.a);
  safetensors.close();
  writeFileSync(path, encodeNpy({ shape: [1, 2], data: Float32Array.of(3, 4) }));
  const npy = await openCheckpoint(path);
  assert.equal(
    [npy.format, ...npy.names, ...npy.shape('tensor'), ...npy.floats('tensor')],
    ['npy', 'tensor', 1, 2, 3, 4],
  );
  npy.close();

  const looks = async (content: string, ...parts: string[]) => {
    writeFileSync(path, Buffer.from(content, 'latin1'));
    await refusesAsync(() => openCheckpoint(path), path, ...parts);
  };
  await looks('', 'empty');
  await looks('version https://git-lfs.github.com/spec/v1\noid', 'Git LFS', 'git lfs pull');
  await looks('<!DOCTYPE html><html>', 'web page');
  await looks('\x1f\x8b\x08', 'gzip');
  await looks(`${'a'.repeat(257)}ustar`, 'tar archive');
  await looks('{"a": 1}', 'JSON');
  await looks('\x01\x02\xff', 'begins with the bytes 01 02 ff');
  await refusesAsync(() => openCheckpoint(join(temporary, 'none')), 'no such file');
  await refusesAsync(() => openCheckpoint(temporary), 'folder');
});

test('a large file is opened by its structure and read a tensor at a time', async () => {
  // 300 arrays of 4 MiB, holes in a sparse file but for a first element.
  const count = 300;
  const size = 1 << 22;
  const path = join(temporaryFolder(), 'large.msgpack');
  const descriptor = openSync(path, 'w');
  const head = (i: number) => {
    const name = `p${i}`;
    const payload = Buffer.concat([
      Buffer.of(0x93, 0x91, 0xce, 0, 0x10, 0, 0, 0xa7),
      Buffer.from('float32'),
      Buffer.of(0xc6, 0, 0x40, 0, 0),
    ]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(payload.length + size);
    return Buffer.concat([
      Buffer.of(0xa0 + name.length),
      Buffer.from(name),
      Buffer.of(0xc9),
      length,
      Buffer.of(1),
      payload,
    ]);
  };
  let at = writeSync(descriptor, Buffer.of(0xde, count >> 8, count & 255));
  for (let i = 0; i < count; i++) {
    at += writeSync(
      descriptor,
      Buffer.concat([head(i), new Uint8Array(Float32Array.of(i).buffer)]),
      0,
      null,
      at,
    );
    at += size - 4;
  }
  ftruncateSync(descriptor, at);
  closeSync(descriptor);

  const file = openFile(path);
  const reads: number[] = [];
  const read = (begin: number, end: number) => {
    reads.push(end - begin);
    return file.read(begin, end);
  };
  const checkpoint = await readCheckpoint({ ...file, read }, 'large');
  assert.is(checkpoint.names.length, count);
  const structure = reads.reduce((a, b) => a + b, 0);
  assert.ok(at > 1.2e9 && structure < 16 * 2 ** 20, `${structure} bytes were read to open ${at}`);
  for (const i of [0, 257, count - 1]) {
    reads.length = 0;
    const floats = checkpoint.floats(`p${i}`);
    assert.equal(reads, [size]);
    assert.equal([floats.length, floats[0], floats[1]], [2 ** 20, i, 0]);
  }
  checkpoint.close();
});

test('conversion keeps bytes, or rounds floats as asked', async () => {
  const temporary = temporaryFolder();
  const source = await openCheckpoint(join(folder, 'torch-zip.pt'));
  const out = join(temporary, 'out.safetensors');
  const count = convertCheckpoint(source, out, { prefix: 'state_dict.module', drop: /^tied|^empty$/u });
  assert.is(count, 22 - 3);
  const exact = await openCheckpoint(out);
  assert.equal({ ...exact.metadata }, { best: '91.75', size: '[3, 32, 32]', device: 'cpu', nothing: 'None' });
  for (const name of exact.names) {
    const stored = `state_dict.module.${name}`;
    assert.is(exact.type(name), source.type(stored));
    assert.equal(exact.array(name), source.array(stored));
  }
  exact.close();

  let ticks = 0;
  const options = {
    prefix: 'state_dict.module.',
    drop: /empty/u,
    dtype: 'bf16',
    onTensor: () => ticks++,
  } as const;
  convertCheckpoint(source, out, options);
  assert.is(ticks, 21);
  const rounded = openSafetensors(out);
  assert.is(rounded.type('f64'), 'BF16');
  assert.is(rounded.type('i64'), 'I64');
  for (const name of ['f64', 'f32', 'f16', 'transposed']) {
    const wanted = source.floats(`state_dict.module.${name}`);
    rounded.floats(name).forEach((value, i) => {
      // bfloat16 keeps 8 bits; half of the last one is at most 2^-8 of the number.
      assert.ok(Math.abs(value - (wanted[i] as number)) <= 2 ** -8 * Math.abs(wanted[i] as number), name);
    });
  }
  rounded.close();

  const before = readFileSync(out);
  refuses(() => convertCheckpoint(source, out, { prefix: 'state' }), 'no tensor below "state."', 'it has 26');
  const large = join(temporary, 'large.safetensors');
  writeFileSync(
    large,
    encodeSafetensors({
      ok: { shape: [], data: Float64Array.of(1) },
      x: { shape: [2], data: Float32Array.of(65519, 65520) },
    }),
  );
  const wide = await openCheckpoint(large);
  refuses(
    () => convertCheckpoint(wide, out, { dtype: 'f16' }),
    large,
    '"x" holds 65520 at position 1',
    'beyond F16',
  );
  wide.close();
  assert.equal(readFileSync(out), before);
  source.close();
});

test('real checkpoints equal their safetensors twins', async () => {
  const shared = sharedData();
  if (!shared) {
    console.log('skipped: no shared data');
    return;
  }
  const pairs = [
    [
      'cifar_resnet/resnet20-12fca82f.th',
      'cifar_resnet/resnet20-12fca82f.safetensors',
      'state_dict.module',
      'torch-legacy',
    ],
    ['cifar_robust/cifar_cnn_a_adv.model', 'cifar_robust/cifar_cnn_a_adv.safetensors', '', 'torch'],
    ['cifar_robust/resnet4b.pth', 'cifar_robust/resnet4b.safetensors', 'state_dict', 'torch'],
  ] as const;
  for (const [original, twin, prefix, format] of pairs) {
    const a = await openCheckpoint(join(shared, original));
    const b = await openCheckpoint(join(shared, twin));
    assert.is(a.format, format);
    const differences = compareTensors(a, b, { prefix });
    assert.is(differences.length, b.names.length);
    assert.ok(
      differences.every(({ largest }) => largest === 0),
      original,
    );
    a.close();
    b.close();
  }
});

test.run();
