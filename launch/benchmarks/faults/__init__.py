"""Everything that can happen to a run, made to happen.

    python -m launch.benchmarks.faults.all              all quick ones, on a run of a second
    python -m launch.benchmarks.faults.kill --kills=100 kill -9 at random moments
    python -m launch.benchmarks.faults.damage           one kind of them: damage, disk, moments

What is required of every fault: no number of a run that went on differs from those of the
undisturbed one in any bit, no step before the last save is trained again, and what a person sees
is one line that says what happened and what to do.

fault                                            made to happen in      and tested in
kill -9 at random moments                        kill                   tests/launch/test_kill.py
SIGTERM: exit 75, the same command goes on       moments                test_run.py, test_faults.py
two runs in one directory: the second refuses    moments                test_run_directory.py,
                                                                        test_faults.py
clock set back, times of files turned round      moments                test_faults.py
NaN in the data: step named, checkpoint kept     moments                test_faults.py
an image file that breaks during training        moments                test_faults.py
a bit flipped in each file of a checkpoint       damage                 test_checkpoint.py,
                                                                        test_faults.py
each file of a checkpoint cut, or missing        damage                 as above
an empty step folder, a step under another       damage                 as above
number, an unfinished save
every step damaged                               damage                 as above
a checkpoint of another configuration            damage                 as above
configuration, metrics or clock file damaged     damage                 test_run_directory.py,
                                                                        test_faults.py
disk full during a save                          disk                   test_checkpoint.py (one
                                                                        write), test_faults.py
a read-only directory, before and during a run   disk                   test_faults.py
a file where the folder of a stage should be     disk                   test_faults.py
data files that are cut, of other types, or      -                      tests/data/
that would run code or climb out of a folder                            test_file_fuzz.py
wrong values on the command line                 -                      test_config_fuzz.py
"""
