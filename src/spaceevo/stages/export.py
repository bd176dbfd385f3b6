"""Stage export: a subnet as files that equal the trained network."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from spaceevo.errors import ExportError, choices
from spaceevo.export.float_onnx import export_float
from spaceevo.export.onnx import float_leftovers, optimized_op_counts, save_onnx, to_onnx
from spaceevo.export.parity import compare, run_onnx
from spaceevo.nn.checkpoint import save_subnet
from spaceevo.nn.evaluate import calibrate_subnet, logits_of
from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program, execute
from spaceevo.space.cost import subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.base import Context, Outcome, StageCallback

INT8_FILE, FP32_FILE = "subnet_int8.onnx", "subnet_fp32.onnx"


class ExportStage(StageCallback):
    """Writes a subnet as INT8 and fp32 ONNX files and proves that the INT8 file computes the trained network."""

    name = "export"
    main_figure = "onnx_agreement"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The subnet's own checkpoint; or both supernets, and the found subnet."""
        if context.plain["checkpoint"]:
            return {"subnet": Path(context.plain["checkpoint"])}
        found = context.layout.subnet_search(str(context.member)) / "front.json"
        return {
            "int8": context.supernet_file(int8=True),
            "fp32": context.supernet_file(int8=False),
            "subnet": found,
        }

    def work(self, context: Context) -> Outcome:
        """Extract, convert, write, compare."""
        if context.config.quant.name != "deploy":
            raise ExportError(
                f"quant={context.config.quant.name} has no integer program; "
                "export with quant=deploy, from a supernet trained under it"
            )
        given = context.given_subnet
        if given and given.quant != "deploy":
            raise ExportError(f"{context.plain['checkpoint']} is of quant={given.quant}; export needs quant=deploy")
        classes = tuple(context.data.classes)
        if given and given.classes != classes:
            raise ExportError(
                f"{context.plain['checkpoint']} knows the classes {choices(given.classes)}, the data "
                f"{choices(classes)}; set data=… or data.root=… to what it was finetuned on"
            )
        spec, member = (given.spec, given.member) if given else (context.best_subnet(), context.member)
        network = given.network if given else self._extract(context, spec, int8=True)
        shape = (context.superspace.input_channels, spec.resolution, spec.resolution)
        program = to_program(network, shape)
        files = {"int8_onnx": context.output / INT8_FILE, "fp32_onnx": context.output / FP32_FILE}
        metadata = {"space": str(member), "subnet": str(spec), "resolution": str(spec.resolution)}
        metadata["classes"] = ",".join(classes)
        save_onnx(to_onnx(program, metadata), files["int8_onnx"])
        save_subnet(context.output / "subnet_int8.pth", network, member, spec, classes, "deploy")
        if given:  # the same weights in floating point
            fp32 = copy.deepcopy(network)
            set_quant(fp32, False)
        else:
            fp32 = self._extract(context, spec, int8=False)
        export_float(fp32, shape, files["fp32_onnx"])
        figures = {"subnet": str(spec), **self._figures(context, network, program, files)}
        cost = subnet_cost(member, spec)
        figures |= {"mmacs": cost.mmacs, "mparams": cost.mparams}
        outputs = {**files, "checkpoint": context.output / "subnet_int8.pth"}
        return Outcome(figures, outputs, context.command("benchmark", f"space={member}", "quant=deploy"))

    def _extract(self, context: Context, spec: SubnetSpec, int8: bool) -> Network:
        supernet = context.supernet(int8)
        calibrate_subnet(supernet, spec, context.data.calibration_images())
        return supernet.extract(spec)

    def _figures(
        self, context: Context, network: Network, program: Program, files: dict[str, Path]
    ) -> dict[str, float | int | str]:
        batches = list(context.data.test())
        images = torch.cat([resize(images, network.resolution) for images, _ in batches])
        model = files["int8_onnx"].read_bytes()
        trained, labels = logits_of(network, batches)
        exact, runtime = execute(program, images), run_onnx(model, images)
        onnx, plain = compare(trained, runtime), compare(trained, run_onnx(model, images, optimize=False))
        fp32 = run_onnx(files["fp32_onnx"].read_bytes(), images)
        leftovers = float_leftovers(optimized_op_counts(model))

        def accuracy(logits: torch.Tensor) -> float:
            return 100.0 * float((logits.argmax(1) == labels).double().mean())

        if onnx.agreement < context.recipe["min_agreement"] or (leftovers and not context.recipe["allow_float"]):
            raise ExportError(
                f"{files['int8_onnx']} agrees with the trained network on {onnx.agreement:.2f} % of images "
                f"(recipe.export.min_agreement: {context.recipe['min_agreement']}) "
                f"and leaves {leftovers or 'nothing'} in float"
            )
        return {
            "int8_top1": accuracy(trained),
            "onnx_int8_top1": accuracy(runtime),
            "onnx_fp32_top1": accuracy(fp32),
            "onnx_agreement": onnx.agreement,
            "onnx_unoptimized_agreement": plain.agreement,
            "exact_agreement": compare(trained, exact).agreement,
            "onnx_mean_difference_std": onnx.mean_difference,
            "onnx_max_difference_std": onnx.max_difference,
            "onnx_float_layers": sum(leftovers.values()),
            "int8_file_kb": files["int8_onnx"].stat().st_size / 1e3,
            "fp32_file_kb": files["fp32_onnx"].stat().st_size / 1e3,
        }
