"""Exercises: functions for students to write, and a grader that says what is wrong and why.

    pip install tinyvit pytest
    tinyvit exercises start my_exercises
    pytest my_exercises

``exercise`` says what an exercise is, ``ex04_softmax`` and the others each declare one, ``stubs`` holds the files that
students write in, ``course`` hands them out, ``grade`` judges (with ``student``, which calls their code with care, and
``compare``, which knows the wrong answers by name), ``worker`` does it in a process of its own, ``plugin`` is pytest's.
"""
