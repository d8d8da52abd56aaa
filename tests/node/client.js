// A complete client of poolservice in Node.js. It uses pool.proto and Node's gRPC library, and no generated code.
//
//   npm ci                                  installs the gRPC library, once
//   node client.js localhost:50051 IMAGE    runs the client against a server
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { parseArgs } = require("node:util");

const USAGE = `usage: node client.js ADDRESS IMAGE [--json] [--protos DIR]

Pools an image file and a tensor, sends one invalid request, and prints the shapes and the first values of the results.

  ADDRESS       host and port of the server, for example localhost:50051
  IMAGE         a JPEG, PNG, WebP, BMP, TIFF or GIF file
  --json        print all values, as one JSON object
  --protos DIR  the folder that contains poolservice/v1/pool.proto; default: protos/ of this repository`;

const TYPED_ARRAYS = { DATA_TYPE_FLOAT32: Float32Array, DATA_TYPE_INT64: BigInt64Array };
const PRINTED_VALUES = 6;

class UsageError extends Error {}

function readArguments() {
  let parsed;
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        help: { type: "boolean", short: "h" },
        json: { type: "boolean" },
        protos: { type: "string", default: path.join(__dirname, "..", "..", "protos") },
      },
    });
  } catch (error) {
    throw new UsageError(`${error.message}\n\n${USAGE}`);
  }
  const { positionals, values } = parsed;
  if (values.help) {
    return { help: true };
  }
  if (positionals.length !== 2) {
    throw new UsageError(`expected ADDRESS and IMAGE, got ${positionals.length} arguments\n\n${USAGE}`);
  }
  const [address, imagePath] = positionals;
  const proto = path.join(values.protos, "poolservice", "v1", "pool.proto");
  if (!fs.existsSync(proto)) {
    throw new UsageError(`there is no ${proto}; name the folder that contains poolservice/v1/pool.proto with --protos`);
  }
  let image;
  try {
    image = fs.readFileSync(imagePath);
  } catch (error) {
    throw new UsageError(`cannot read the image ${imagePath}: ${error.message}`);
  }
  return { address, image, imagePath, json: values.json, protos: values.protos };
}

// Returns a client of the service at `address`, built from the proto at run time.
function connect(address, protos) {
  const grpc = require("@grpc/grpc-js");
  const protoLoader = require("@grpc/proto-loader");
  const googleProtos = require("google-proto-files");
  const definition = protoLoader.loadSync("poolservice/v1/pool.proto", {
    includeDirs: [protos, googleProtos.getProtoPath("..")], // the second has google/rpc/status.proto
    keepCase: true,
    longs: Number,
    enums: String,
    oneofs: true,
  });
  const { PoolService } = grpc.loadPackageDefinition(definition).poolservice.v1;
  const service = new PoolService(address, grpc.credentials.createInsecure(), {
    // By default, grpc-js refuses to receive more than 4 MB. The server limits its responses itself.
    "grpc.max_receive_message_length": -1,
  });
  return {
    pool: (request) =>
      new Promise((resolve, reject) => {
        service.Pool(request, { deadline: Date.now() + 30_000 }, (error, response) =>
          error ? reject(error) : resolve(response),
        );
      }),
    statusName: (code) => grpc.status[code],
    close: () => service.close(),
  };
}

// Converts a Tensor message to its type, its shape and an array of numbers.
function readTensor(tensor) {
  if (!tensor) {
    return null;
  }
  // The data is little-endian, and so are typed arrays on all common processors. The copy aligns the elements.
  const { buffer, byteOffset, byteLength } = tensor.data;
  const elements = new TYPED_ARRAYS[tensor.dtype](buffer.slice(byteOffset, byteOffset + byteLength));
  const dtype = tensor.dtype.replace("DATA_TYPE_", "").toLowerCase();
  return { dtype, shape: tensor.shape, values: Array.from(elements, Number) };
}

function readResponse(response) {
  return {
    device: response.execution.device,
    results: response.results.map((result) => ({
      tensor: readTensor(result.tensor),
      indices: readTensor(result.indices),
    })),
  };
}

async function run({ pool, statusName }, image) {
  const imageResponse = await pool({
    specs: [
      { spatial_dims: 2, max_pool: { kernel_size: [3], stride: [2], padding: [1] } },
      { spatial_dims: 2, global_avg_pool: {} },
    ],
    image: { data: image },
  });

  // A float32 tensor of the shape (2, 4, 6): 0, 1.5, 3, ...
  const elements = Float32Array.from({ length: 48 }, (_, i) => 1.5 * i);
  const tensor = { dtype: "DATA_TYPE_FLOAT32", shape: [2, 4, 6], data: Buffer.from(elements.buffer) };
  const tensorResponse = await pool({
    specs: [{ spatial_dims: 2, max_pool: { kernel_size: [2, 3], return_indices: true } }],
    tensor,
  });

  const error = await pool({
    specs: [{ spatial_dims: 2, max_pool: { kernel_size: [2], padding: [2] } }],
    tensor,
  }).then(
    () => null,
    (error) => ({ code: statusName(error.code), message: error.details }),
  );

  return { image: readResponse(imageResponse), tensor: readResponse(tensorResponse), error };
}

function formatTensor({ dtype, shape, values }) {
  const shown = values.slice(0, PRINTED_VALUES).map((value) => Number(value.toPrecision(6)));
  const rest = values.length > shown.length ? " ..." : "";
  return `${dtype} (${shape.join(", ")}): ${shown.join(" ")}${rest}`;
}

function format({ image, tensor, error }, imagePath) {
  const [maxima, means] = image.results;
  const [result] = tensor.results;
  return [
    `${imagePath}, pooled on ${image.device}`,
    `  max_pool         ${formatTensor(maxima.tensor)}`,
    `  global_avg_pool  ${formatTensor(means.tensor)}`,
    `float32 tensor (2, 4, 6), pooled on ${tensor.device}`,
    `  max_pool         ${formatTensor(result.tensor)}`,
    `  indices          ${formatTensor(result.indices)}`,
    "invalid request",
    `  ${error.code}: ${error.message}`,
  ].join("\n");
}

async function main() {
  const { help, address, image, imagePath, json, protos } = readArguments();
  if (help) {
    console.log(USAGE);
    return;
  }
  const client = connect(address, protos);
  try {
    const results = await run(client, image);
    console.log(json ? JSON.stringify(results) : format(results, imagePath));
  } finally {
    client.close();
  }
}

main().catch((error) => {
  const message = error.code === "MODULE_NOT_FOUND" ? `run "npm ci" in ${__dirname} first` : error.message;
  console.error(`client.js: ${message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
