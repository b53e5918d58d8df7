"""All that goes wrong, by name: a class that is added here is drawn by schedules."""

from tests.faults import disks, elsewhere, inputs, processes
from tests.faults.base import Fault

FAULTS: dict[str, type[Fault]] = {
    fault.__name__: fault
    for fault in (
        processes.Kill,
        processes.Term,
        processes.TermTwice,
        processes.WorkerDies,
        processes.WorkerHangs,
        processes.ClockJumps,
        processes.Twice,
        processes.TwoRepros,
        disks.Torn,
        disks.Flipped,
        disks.DamagedOut,
        disks.CutInput,
        disks.FullDisk,
        disks.FullFromTheStart,
        disks.ReadOnly,
        disks.Immutable,
        inputs.NoService,
        inputs.SlowService,
        inputs.DataChange,
        inputs.DamagedData,
        elsewhere.StoreAway,
        elsewhere.StoreGone,
        elsewhere.StoreSlow,
        elsewhere.RayWorkerDies,
        elsewhere.RayletDies,
    )
}
